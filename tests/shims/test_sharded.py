"""Sharded checkpoints: `torch.distributed.checkpoint`, in one process."""

from __future__ import annotations

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save, torch_save_to_dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

import torchdevice_mode

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def trained(device):
    torch.manual_seed(0)
    layer = nn.Linear(2, 2).to(device)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2, device=device)).sum().backward()
    optimizer.step()
    return layer, optimizer


def state_of(layer, optimizer, extra):
    model, states = get_state_dict(layer, optimizer)
    return {"model": model, "optimizer": states, "extra": extra, "epoch": 3}


def save_at_once(state, path):
    dcp.save(state, checkpoint_id=path)


def save_meanwhile(state, path):
    dcp.async_save(state, checkpoint_id=path).result()


@pytest.mark.parametrize("save", [save_at_once, save_meanwhile])
def test_a_sharded_checkpoint_is_saved_and_loaded(redirected, target, tmp_path, save):
    extra = torch.arange(3.0, device="cuda")
    layer, optimizer = trained("cuda")
    weight = layer.weight.tolist()
    save(state_of(layer, optimizer, extra), tmp_path)
    with torchdevice_mode.native():  # whoever reads it elsewhere
        elsewhere = torch.zeros(3)
        dcp.load({"extra": elsewhere}, checkpoint_id=tmp_path)
    assert elsewhere.tolist() == [0, 1, 2]
    fresh = nn.Linear(2, 2).cuda()
    fresh_optimizer = torch.optim.AdamW(fresh.parameters())
    state = state_of(fresh, fresh_optimizer, torch.zeros(3, device="cuda"))
    dcp.load(state, checkpoint_id=tmp_path)
    set_state_dict(
        fresh,
        fresh_optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
    )
    assert fresh.weight.tolist() == weight
    assert {s["exp_avg"].device for s in fresh_optimizer.state.values()} == {target}
    assert (state["extra"].device, state["extra"].tolist()) == (target, [0, 1, 2])


def test_what_plain_torch_saved_loads_onto_the_target(redirected, target, tmp_path):
    with torchdevice_mode.native():
        layer, optimizer = trained("cpu")
        dcp.save(state_of(layer, optimizer, torch.ones(1)), checkpoint_id=tmp_path)
    fresh = nn.Linear(2, 2).cuda()
    state = {"model": fresh.state_dict()}
    dcp.load(state, checkpoint_id=tmp_path)
    assert fresh.weight.device == target
    assert fresh.weight.tolist() == layer.weight.tolist()


def test_sharded_files_are_converted_to_one_file_and_back(redirected, tmp_path):
    layer, optimizer = trained("cuda")
    dcp.save(state_of(layer, optimizer, torch.ones(1, device="cuda")), checkpoint_id=tmp_path / "a")
    dcp_to_torch_save(tmp_path / "a", tmp_path / "whole.pt")
    loaded = torch.load(tmp_path / "whole.pt")
    assert loaded["model"]["weight"].tolist() == layer.weight.tolist()
    torch.save({"model": layer.state_dict()}, tmp_path / "ours.pt")
    torch_save_to_dcp(tmp_path / "ours.pt", tmp_path / "b")
    state = {"model": nn.Linear(2, 2).cuda().state_dict()}
    dcp.load(state, checkpoint_id=tmp_path / "b")
    assert state["model"]["weight"].tolist() == layer.weight.tolist()


def test_a_missing_checkpoint_gives_torchs_own_error(redirected, tmp_path):
    with pytest.raises(dcp.api.CheckpointException):
        dcp.load({"x": torch.ones(1, device="cuda")}, checkpoint_id=tmp_path / "nothing")

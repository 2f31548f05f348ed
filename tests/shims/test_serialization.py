"""Checkpoints written on CUDA, and storages, on the target."""

from __future__ import annotations

import argparse
import io
import pickle

import pytest
import torch
from _files import FORMATS, as_if_on_cuda, read, write_legacy, write_new
from torch import nn

import torchdevice_mode
from torchdevice_mode import _override


def tensors():
    whole = torch.arange(6.0).reshape(2, 3)
    return {
        "whole": whole,
        "row": whole[1],
        "integers": torch.arange(2),
        "doubles": torch.tensor([1.5, 2.5], dtype=torch.float64),
        "none": torch.empty(0),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }


@pytest.fixture
def written():
    file = io.BytesIO()
    with as_if_on_cuda():
        torch.save(tensors(), file)
    file.seek(0)
    return file


MAPS = {
    "none": None,
    "cuda": "cuda",
    "index": "cuda:0",
    "device": torch.device("cuda"),
    "dictionary": {"cuda:1": "cuda:0"},
    "cuda by storage": lambda storage, place: storage.cuda(),
    "index by storage": lambda storage, place: storage.cuda(0),
    "to by storage": lambda storage, place: storage.to(device="cuda"),
    "left to torch": lambda storage, place: None,
}


@pytest.mark.parametrize("weights_only", [True, False])
@pytest.mark.parametrize("map_location", MAPS.values(), ids=MAPS)
@pytest.mark.off_cuda
def test_a_cuda_checkpoint_loads_onto_the_target(
    redirected, target, written, map_location, weights_only
):
    loaded = torch.load(written, map_location=map_location, weights_only=weights_only)
    for name, expected in tensors().items():
        assert loaded[name].device == target
        assert loaded[name].tolist() == expected.tolist()
    loaded["whole"][1, 1] = 9
    assert loaded["row"].tolist() == [3, 9, 5]


ON_CPU = {
    "cpu": "cpu",
    "device": torch.device("cpu"),
    "cpu itself": "cpu:-1",
    "dictionary": {"cuda:1": "cpu"},
    "dictionary, cpu itself": {"cuda:1": "cpu:-1", "cuda:0": "cpu:-1"},
    "by storage": lambda storage, place: storage,
}


@pytest.mark.parametrize("write", [write_new, write_legacy], ids=["new", "legacy"])
@pytest.mark.parametrize("map_location", ON_CPU.values(), ids=ON_CPU)
def test_a_cuda_checkpoint_stays_on_the_cpu_where_asked(redirected, write, map_location):
    with as_if_on_cuda():
        data = write(tensors())
    loaded = read(data, map_location=map_location)
    assert {tensor.device.type for tensor in loaded.values()} == {"cpu"}
    assert loaded["doubles"].dtype is torch.float64


@pytest.mark.parametrize("map_location", ["cpu:-1", {"cuda:0": "cpu:-1", "cuda:1": "cpu:-1"}])
def test_the_cpu_itself_toggles_the_override_once_a_load(redirected, written, map_location):
    torch.load(written, map_location=map_location)
    assert _override.active()
    written.seek(0)
    torch.load(written, map_location=map_location)
    assert not _override.active()


def test_the_cpu_itself_may_be_a_device(redirected, written):
    loaded = torch.load(written, map_location=torch.device("cpu:-1"))
    assert loaded["whole"].device.type == "cpu"


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.off_cuda
def test_every_format_gives_the_same_numbers(redirected, target, kind):
    write, read_back = FORMATS[kind]
    with as_if_on_cuda():
        data = write(tensors())
    loaded = read_back(data)
    for name, expected in tensors().items():
        assert loaded[name].device == target
        assert loaded[name].tolist() == expected.tolist()


def test_a_file_is_mapped_into_memory(redirected, target, written, tmp_path):
    path = tmp_path / "file.pt"
    path.write_bytes(written.getvalue())
    for options in ({"map_location": "cuda"}, {"map_location": "cuda", "weights_only": False}):
        loaded = torch.load(path, mmap=True, **options)
        assert (loaded["whole"].device, loaded["whole"].tolist()) == (
            target,
            [[0, 1, 2], [3, 4, 5]],
        )


# --- what else is in checkpoints ----------------------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("offset", torch.ones(2))
        self.device = torch.device("cuda:1")

    def forward(self, x):
        return self.layer(x.to(self.device)) + self.offset


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.off_cuda
def test_a_whole_training_state_goes_on(redirected, target, kind):
    write, read_back = FORMATS[kind]
    with as_if_on_cuda():
        net = Net()
        optimizer = torch.optim.Adam(net.parameters())
        net.layer(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        arguments = argparse.Namespace(device=torch.device("cuda:1"), precision=torch.bfloat16)
        state = {"net": net, "optimizer": optimizer, "arguments": arguments}
        data = write(state)
    loaded = read_back(data)
    assert loaded["arguments"].device == target
    assert {p.device for p in loaded["net"].parameters()} == {target}
    assert {b.device for b in loaded["net"].buffers()} == {target}
    assert loaded["optimizer"].param_groups[0]["params"][0] is loaded["net"].layer.weight
    before = loaded["net"].layer.weight.tolist()
    loaded["net"](torch.ones(1, 2, device="cuda")).sum().backward()
    loaded["optimizer"].step()
    assert loaded["net"].layer.weight.tolist() != before


@pytest.mark.parametrize("location", ["cpu", "cuda"])
@pytest.mark.off_cuda
def test_state_dicts_load_into_what_is_on_the_target(redirected, target, location):
    with as_if_on_cuda():
        plain = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(plain.parameters(), lr=1, momentum=0.5)
        plain(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        data = write_new([plain.state_dict(), optimizer.state_dict()])
    layer = nn.Linear(2, 2).cuda()
    resumed = torch.optim.SGD(layer.parameters(), lr=1, momentum=0.5)
    states = read(data, map_location=location, weights_only=True)
    layer.load_state_dict(states[0])
    resumed.load_state_dict(states[1])
    assert layer.weight.tolist() == plain.weight.tolist()
    layer(torch.ones(1, 2, device="cuda")).sum().backward()
    resumed.step()
    assert {state["momentum_buffer"].device for state in resumed.state.values()} == {target}


@pytest.mark.parametrize("place", ["mps", "xpu:1", "cuda"])
def test_files_of_other_accelerators_load_as_those_of_cuda(redirected, place):
    with as_if_on_cuda(place):
        data = write_new(torch.arange(3.0))
    loaded = read(data)
    assert loaded.device.type == torch.device(place).type  # read by the policy, as the file was
    assert loaded.tolist() == [0, 1, 2]


# --- torch's own answers ------------------------------------------------------------------------


def _whole_file():
    with as_if_on_cuda():
        return write_new(tensors())


def _legacy_file():
    with as_if_on_cuda():
        return write_legacy(tensors())


BAD = {
    "empty": lambda: b"",
    "text": lambda: b'{"weights": [1, 2]}',
    "a pickle": lambda: pickle.dumps({"weights": [1, 2]}),
    "cut short": lambda: _whole_file()[:-200],
    "cut in half": lambda: _whole_file()[:700],
    "damaged": lambda: _whole_file().replace(b"cuda:1", b"cuda:\xff"),
    "legacy, cut short": lambda: _legacy_file()[:-8],
    "legacy, cut in half": lambda: _legacy_file()[:500],
}


def _failure(data, **options):
    with pytest.raises(Exception) as failed:
        read(data, **options)
    return type(failed.value), str(failed.value)


@pytest.mark.parametrize("weights_only", [True, False])
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.off_cuda
def test_a_bad_file_gives_torchs_own_error(bad, weights_only):
    data = BAD[bad]()
    # As on the machine that wrote it: where there is no CUDA, that is all that torch says.
    expected = _failure(data, weights_only=weights_only, map_location="cpu")
    with torchdevice_mode.redirect():
        assert _failure(data, weights_only=weights_only) == expected


def test_a_place_that_torch_does_not_know_gives_its_own_error():
    with as_if_on_cuda("abacus:0"):
        data = write_new(torch.ones(1))
    expected = _failure(data)
    with torchdevice_mode.redirect():
        assert _failure(data) == expected


@pytest.mark.parametrize("map_location", ["abacus", "cpu:0", 3, {"cuda:1": "abacus"}])
def test_a_bad_map_location_gives_torchs_own_error(map_location):
    data = _whole_file()
    expected = _failure(data, map_location=map_location)
    with torchdevice_mode.redirect():
        assert _failure(data, map_location=map_location) == expected


def test_what_weights_only_forbids_stays_forbidden(redirected):
    with as_if_on_cuda():
        data = write_new(Net())
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        read(data, weights_only=True)


# --- storages -----------------------------------------------------------------------------------


@pytest.mark.off_cuda
def test_storages_move_to_the_target_and_stay_where_they_are(redirected, target):
    with torchdevice_mode.native():
        storage = torch.arange(3.0).untyped_storage()
    for moved in (storage.cuda(), storage.to(device="cuda"), storage.cuda(0)):
        assert moved.device == target
        assert bytes(moved.cpu()) == bytes(storage)
        assert moved.cuda() is moved
    assert storage.cpu() is storage

"""Checkpoints written on CUDA, and storages, on the target; what is saved loads in plain torch."""

from __future__ import annotations

import io
import pickle
from contextlib import contextmanager

import pytest
import torch

import torchdevice_mode


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


@contextmanager
def as_if_on_cuda():
    """Plain torch, which tags the storages that it writes as those of a CUDA device."""
    packages = torch.serialization._package_registry
    with torchdevice_mode.native():
        torch.serialization.register_package(0, lambda storage: "cuda:1", lambda *_: None)
        added = packages[0]
        try:
            yield
        finally:
            packages.remove(added)


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


@pytest.mark.parametrize(
    "map_location", ["cpu", torch.device("cpu"), lambda storage, place: storage]
)
def test_a_cuda_checkpoint_stays_on_the_cpu_where_asked(redirected, written, map_location):
    loaded = torch.load(written, map_location=map_location)
    assert {tensor.device.type for tensor in loaded.values()} == {"cpu"}
    assert loaded["doubles"].dtype is torch.float64


@pytest.mark.off_cuda
def test_what_is_pickled_on_cuda_comes_back_on_the_target(redirected, target):
    with as_if_on_cuda():
        stored = pickle.dumps(tensors()["whole"])
    loaded = pickle.loads(stored)
    assert (loaded.device, loaded.tolist()) == (target, [[0, 1, 2], [3, 4, 5]])


def test_what_is_saved_loads_in_plain_torch(redirected):
    file = io.BytesIO()
    layer = torch.nn.Linear(2, 2).cuda()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    with torchdevice_mode.native():
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    assert loaded["weight"].tolist() == layer.weight.tolist()


@pytest.mark.off_cuda
def test_storages_move_to_the_target_and_stay_where_they_are(redirected, target):
    with torchdevice_mode.native():
        storage = torch.arange(3.0).untyped_storage()
    for moved in (storage.cuda(), storage.to(device="cuda"), storage.cuda(0)):
        assert moved.device == target
        assert bytes(moved.cpu()) == bytes(storage)
        assert moved.cuda() is moved
    assert storage.cpu() is storage

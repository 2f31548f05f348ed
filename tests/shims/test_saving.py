"""What is saved under redirection: plain torch loads it on any machine, and we where it was."""

from __future__ import annotations

import copy
import io
import json
import pickle
import zipfile

import pytest
import torch
from _files import (
    FORMATS,
    needs_other_machine,
    read,
    read_by_plain_torch,
    write_legacy,
    write_new,
)
from torch import nn

import torchdevice_mode

pytestmark = pytest.mark.usefixtures("redirected")


class Wrapper(torch.Tensor):
    """A tensor that holds another one and has no memory of its own."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, device=inner.device
        )

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return cls(func(args[0].inner, *args[1:], **(kwargs or {})))


def things():
    """What programs save, on the device that stands for CUDA and, of set purpose, on the CPU."""
    whole = torch.arange(6.0, device="cuda").reshape(2, 3)
    nothing = torch.empty(0, device="cuda")
    with torchdevice_mode.cpu_override():
        steps = torch.tensor([7.0], device="cpu")
    return {
        "whole": whole,
        "row": whole[1],
        "steps": steps,
        "nothing": nothing,
        "nothing again": nothing,
        "parameter": nn.Parameter(torch.ones(2, device="cuda")),
        "sparse": torch.eye(2, device="cuda").to_sparse(),
        "wrapper": Wrapper(torch.ones(2, device="cuda")),
        "inner": nn.Linear(2, 2).cuda().state_dict(),
    }


def tensors_in(loaded):
    for thing in loaded.values():
        if isinstance(thing, dict):
            yield from thing.values()
        else:
            yield thing
            if isinstance(thing, Wrapper):
                yield thing.inner


def on_cpu(loaded):
    return {tensor.device.type for tensor in tensors_in(loaded)} == {"cpu"}


# --- plain torch, elsewhere ---------------------------------------------------------------------

READER = """
import json, pickle
found = {}
for options in ({}, {"weights_only": True}, {"mmap": True}):
    found[f"new {options}"] = torch.load(f"{folder}/new.pt", **options)
found["legacy"] = torch.load(f"{folder}/legacy.pt")
with open(f"{folder}/pickle.pkl", "rb") as file:
    found["pickle"] = pickle.load(file)
for thing in list(found):
    moved = {name: tensor.to(machine) for name, tensor in found[thing].items()}
    assert {tensor.device.type for tensor in moved.values()} == {machine}
print(json.dumps({
    name: {key: [str(tensor.device), tensor.tolist()] for key, tensor in loaded.items()}
    for name, loaded in found.items()
}))
"""


@pytest.mark.parametrize("machine", ["cpu", "mps", "cuda"])
def test_plain_torch_on_any_machine_loads_what_is_saved(machine, target, tmp_path):
    needs_other_machine(machine, target)
    whole = torch.arange(6.0, device="cuda").reshape(2, 3)
    saved = {"whole": whole, "row": whole[1], "integers": torch.arange(2, device="cuda")}
    assert {tensor.device for tensor in saved.values()} == {target}
    torch.save(saved, tmp_path / "new.pt")
    torch.save(saved, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "pickle.pkl").write_bytes(pickle.dumps(saved))
    loaded = json.loads(read_by_plain_torch(READER, tmp_path, machine).splitlines()[-1])
    assert len(loaded) == 5
    for found in loaded.values():
        assert found == {name: ["cpu", tensor.tolist()] for name, tensor in saved.items()}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_kind_of_tensor_is_saved_as_the_cpus(kind):
    write, read_back = FORMATS[kind]
    data = write(things())
    with torchdevice_mode.native():
        loaded = read_back(data)
    assert on_cpu(loaded)
    assert loaded["whole"].tolist() == [[0, 1, 2], [3, 4, 5]]
    if kind != "pickle":  # which does not share memory, in plain torch either
        loaded["whole"][1, 1] = 9
        assert loaded["row"].tolist() == [3, 9, 5]


# --- the same program ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["new", "pickle"])
def test_a_redirected_program_finds_tensors_where_they_were(kind, target):
    write, read_back = FORMATS[kind]
    loaded = read_back(write(things()))
    assert loaded.pop("steps").device.type == "cpu"
    assert {tensor.device for tensor in tensors_in(loaded)} == {target}
    assert loaded["whole"].tolist() == [[0, 1, 2], [3, 4, 5]]
    if kind == "new":
        loaded["whole"][1, 1] = 9
        assert loaded["row"].tolist() == [3, 9, 5]


def test_a_file_of_the_old_format_comes_back_on_the_cpu():
    loaded = read(write_legacy({"whole": torch.arange(3.0, device="cuda")}))
    assert loaded["whole"].device.type == "cpu"


def test_a_map_location_sees_the_places_of_a_cuda_program(target):
    if target.type == "cpu":
        pytest.skip("what lies on the CPU is saved as the CPU's")
    data = write_new({"whole": torch.ones(2, device="cuda"), "steps": things()["steps"]})

    seen = set()

    def look(storage, place):
        seen.add(place)
        return storage

    assert on_cpu(read(data, map_location=look))
    assert seen == {"cuda:0", "cpu"}
    assert on_cpu(read(data, map_location={"cuda:0": "cpu"}))
    assert on_cpu(read(data, map_location="cpu"))


def test_objects_that_save_and_load_while_they_are_pickled_are_apart(target):
    loaded = read(write_new([Nested(), torch.ones(1, device="cuda"), things()["steps"]]))
    assert loaded[0].held["whole"].device == target
    assert loaded[0].held["steps"].device.type == "cpu"
    assert loaded[1].device == target
    assert loaded[2].device.type == "cpu"


class Nested:
    """An object that keeps a file in a file."""

    def __init__(self):
        self.held = {"steps": things()["steps"], "whole": torch.ones(2, device="cuda")}

    def __getstate__(self):
        return write_new(self.held)

    def __setstate__(self, data):
        self.held = read(data)


def test_copies_stay_where_they_are(target):
    for copied in (copy.copy(things()), copy.deepcopy(things())):
        assert copied.pop("steps").device.type == "cpu"
        assert {tensor.device for tensor in tensors_in(copied)} == {target}
    layer = nn.Linear(2, 2).cuda()
    assert copy.deepcopy(layer).weight.device == target
    assert copy.copy(layer.weight).device == target


def test_a_file_is_the_same_each_time():
    saved = {"whole": torch.ones(2, device="cuda")}
    assert write_new(saved) == write_new(saved)


@pytest.mark.parametrize("record", [b"", b"[1]", b'"x"', b"\xff", b'{"0": 3}', b'{"0": "abacus"}'])
def test_a_record_of_another_making_is_not_believed(record, target):
    with torchdevice_mode.native():
        plain = write_new(torch.ones(2))
    file = io.BytesIO(plain)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("archive/torchdevice", record)
    assert read(file.getvalue()).tolist() == [1, 1]


def test_nothing_is_noted_where_nothing_is_on_the_target():
    with torchdevice_mode.native():
        plain = write_new(torch.ones(2))
        tensor = torch.ones(2)
    assert write_new(tensor) == plain

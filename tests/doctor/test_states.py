"""Names of torch have the states that `torchdevice gap` shows."""

from __future__ import annotations

import pytest

from torchdevice_mode import _gap
from torchdevice_mode._doctor._rules import STATES
from torchdevice_mode._doctor._states import States
from torchdevice_mode._shims import SURFACES

CUDA_SURFACES = [surface for surface in SURFACES if surface.device_type == "cuda"]


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.root)
def test_a_name_has_the_state_that_gap_shows(surface):
    states = States("another")  # for no device of its own
    for entry in _gap.collect(surface.root):
        found = states(entry.name)
        if found is None or found.name != entry.name:
            continue  # a private name, or one that is told of as a part of another
        assert (found.state, found.reason) == (entry.state, entry.reason)
        assert found.state in STATES


@pytest.mark.parametrize("surface", CUDA_SURFACES, ids=lambda surface: surface.root)
def test_most_names_are_told_of_as_themselves(surface):
    states = States("mps")
    entries = _gap.collect(surface.root)
    told = [entry for entry in entries if (states(entry.name) or entry).name == entry.name]
    assert len(told) > 0.9 * len(entries)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("torch.cuda.Event.record", ("torch.cuda.Event", "emulated")),
        ("torch.backends.cuda.matmul.allow_tf32", ("torch.backends.cuda.matmul", "native")),
        ("torch.cuda.no_such_name", ("torch.cuda.no_such_name", "absent")),
        ("torch.cuda.nvtx.no_such_name.x", ("torch.cuda.nvtx.no_such_name", "absent")),
        ("torch._C._cuda_no_such_name", ("torch._C._cuda_no_such_name", "absent")),
        ("torch.cuda.nvtx", None),
        ("torch.zeros", None),
    ],
)
def test_a_name_is_found_by_what_it_is_a_part_of(name, answer):
    found = States("mps")(name)
    assert (found and (found.name, found.state)) == answer


def test_names_of_the_target_itself_are_native():
    assert States("cuda")("torch.cuda.synchronize").state == "native"
    assert States("mps")("torch.mps.synchronize").state == "native"
    assert States("cuda")("torch.mps.synchronize").state == "mapped"

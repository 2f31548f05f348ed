"""What is suggested in place of a device's own names."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch

import torchdevice_mode
from torchdevice_mode._shims.cuda._surface import CUDA
from torchdevice_mode._shims.mps._surface import MPS
from torchdevice_mode._suggestions import ANY_DEVICE, ROWS, for_event, for_name

# Names that one torch or another does not have.
_LATE = {"torch.accelerator.Graph"}


def test_no_name_has_two_rows():
    assert [name for name, count in Counter(row.name for row in ROWS).items() if count > 1] == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_advice_is_one_sentence(row):
    assert re.fullmatch(r"[A-Z].*[^.]\.", row.advice)
    assert ". " not in row.advice


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_is_to_be_written_exists_in_torch(row):
    for name in set(re.findall(r"torch(?:\.\w+)+", f"{row.instead} {row.advice}")) - _LATE:
        found = torch
        for part in name.split(".")[1:]:
            found = getattr(found, part)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_is_to_be_written_is_python(row):
    text = row.instead
    if text.startswith("."):
        text = f"x{text}"
    elif text.endswith(":"):
        text = f"{text} pass"
    compile(text, row.name, "exec")


# What a program has where a row is for it.
_PROGRAM = """
import torch
x = torch.ones(3)
y, f, index, seed, share, name, data = x, torch.exp, 0, 0, 0.5, "n", [1]
backends, path = torch.nn.attention.SDPBackend.MATH, "weights.pt"
model, state, stream = torch.nn.Linear(2, 2), torch.get_rng_state(), torch.Stream("cpu")
torch.save({}, path)
"""
# How advice says that a spelling does not run everywhere.
_NEEDS_MORE = (
    *("it raises where there is no accelerator", "the CPU has not", "the CPU's is"),
    *("accelerators that have graphs", "MPS has no float64", "Use a process for a device"),
)


@pytest.mark.parametrize("row", [r for r in ROWS if r.instead], ids=lambda row: row.name)
def test_what_is_to_be_written_runs_anywhere_or_says_that_it_does_not(row, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = f"x{row.instead}" if row.instead.startswith(".") else row.instead
    names = {}
    try:
        with torchdevice_mode.native():
            exec(f"{_PROGRAM}\n{ANY_DEVICE}", names)
            exec(f"{text} pass" if text.endswith(":") else text, names)
    except (RuntimeError, AttributeError, TypeError, ValueError):
        assert any(words in row.advice for words in _NEEDS_MORE)
    finally:
        torch.set_default_device(None)


def test_the_device_of_all_suggestions_exists_on_any_machine():
    names = {"torch": torch}
    exec(ANY_DEVICE, names)
    assert isinstance(names["device"], torch.device)


@pytest.mark.parametrize("surface", [CUDA, MPS], ids=lambda surface: surface.root)
def test_every_name_that_is_not_native_has_a_row(surface):
    names = [f"{surface.root}.{row.name}" for row in surface.rows.values()]
    assert [name for name in names if for_name(name) is None] == []


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("torch.cuda.synchronize", "torch.accelerator.synchronize()"),
        ("torch.cuda.memory.memory_allocated", "torch.accelerator.memory_allocated()"),
        ("torch.cuda.random.manual_seed_all", "torch.manual_seed(seed)"),
        ("torch.cuda.amp.autocast", "torch.autocast(device.type)"),
        ("torch.cuda.reset_max_memory_cached", "torch.accelerator.reset_peak_memory_stats()"),
        ("torch.mps.empty_cache", "torch.accelerator.empty_cache()"),
        ("torch.cuda.Event.record", ""),
        ("torch.cuda.Stream.synchronize", ""),
        ("torch.nn.Module.cuda", ".to(device)"),
        ("torch.Tensor.cuda", ".to(device)"),
        ("torch.FloatTensor.cuda", ".to(device)"),
        ("device string", "device"),
    ],
)
def test_a_name_is_found_under_every_spelling(name, instead):
    assert for_name(name).instead == instead


@pytest.mark.parametrize("name", ["torch.zeros", "torch.cudaa.x", "numpy.array", ""])
def test_what_is_right_everywhere_has_no_row(name):
    assert for_name(name) is None


@pytest.mark.parametrize(
    ("kind", "asked", "row"),
    [
        ("redirection", "cuda:0", "event redirection"),
        ("redirection", "no device", "event redirection no device"),
        ("redirection", "cpu:0", "event redirection cpu"),
        ("adoption", "a CPU tensor in torch.add", "event adoption"),
        ("fallback", "aten::linalg_qr", "event fallback"),
        ("fallback", "float64 in torch.zeros", "event fallback float64"),
        ("fallback", "c10d::allreduce_", "event fallback collective"),
        ("downcast", "float64 in torch.zeros", "event downcast"),
        ("difference", "aten::mm", "event difference"),
        ("stub", "torch.cuda.nvtx.range_push", "torch.cuda.nvtx.range_push"),
        ("stub", "torch.elsewhere", "event stub"),
    ],
)
def test_every_kind_of_event_has_a_row(kind, asked, row):
    assert for_event(kind, asked).name == row


def test_an_unknown_kind_has_none():
    assert for_event("surprise", "cuda") is None

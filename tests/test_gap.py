"""`torchdevice gap`: every public name of torch's that concerns devices is in a table."""

from __future__ import annotations

import json
import types
from pathlib import Path

import pytest
import torch

from torchdevice_mode import _gap, _places, cli
from torchdevice_mode._places import PLACES
from torchdevice_mode._shims import SURFACES

DOCS = Path(__file__).parents[1] / "docs"
ENTRIES = _gap.collect()
NAMES = {entry.name: entry for entry in ENTRIES}


def test_no_public_name_is_missing():
    assert [entry.name for entry in ENTRIES if entry.state == _gap.MISSING] == []


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("torch.cuda.synchronize", "mapped"),
        ("torch.cuda.memory.memory_stats", "emulated"),
        ("torch.cuda.streams.Stream", "emulated"),
        ("torch.cuda.nvtx.mark", "stubbed"),
        ("torch.cuda.nccl.all_reduce", "unsupported"),
        ("torch.cuda.amp.GradScaler", "native"),
        ("torch.backends.cudnn.benchmark", "native"),
        ("torch.zeros", "rule"),
        ("torch.Tensor.to", "rule"),
        ("torch.Tensor.is_cuda", "rule"),
        ("torch.Tensor.device", "native"),
        ("torch.Generator", "seam"),
        ("torch.autocast", "seam"),
        ("torch.nn.Linear", "below"),
        ("torch.nn.Module.cuda", "below"),
        ("torch.signal.windows.hann", "below"),
        ("torch.distributed.init_process_group", "seam"),
    ],
)
def test_a_name_has_the_state_of_its_table(name, state):
    assert NAMES[name].state == state and NAMES[name].reason


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.root)
def test_a_name_that_torch_adds_is_missing(surface, monkeypatch):
    module = types.ModuleType("added")
    function = types.FunctionType((lambda: None).__code__, {"__name__": surface.root})
    root = __import__(surface.root, fromlist=["_"])
    held = vars(getattr(root, "m", root))
    monkeypatch.setitem(held, "added_by_a_release", function)
    if hasattr(root, "__all__"):
        monkeypatch.setattr(root, "__all__", [*root.__all__, "added_by_a_release"])
    found = {entry.name: entry.state for entry in _gap.collect(surface.root)}
    assert found[f"{surface.root}.added_by_a_release"] == _gap.MISSING
    del module


def test_a_function_with_a_device_that_torch_adds_is_missing(monkeypatch):
    def added(shape, device=None):
        return None

    added.__module__ = "torch.random"
    monkeypatch.setattr(torch.random, "added", added, raising=False)
    if hasattr(torch.random, "__all__"):
        monkeypatch.setattr(torch.random, "__all__", [*torch.random.__all__, "added"])
    found = {entry.name: entry.state for entry in _gap.collect("torch.random")}
    assert found["torch.random.added"] == _gap.MISSING


def test_every_place_says_why():
    for row in PLACES:
        assert row.state in {"below", "native", "open"}
        assert row.reason and not row.reason.endswith(".")


@pytest.mark.skipif(not torch.__version__.startswith("2.13."), reason="rows for the newest torch")
def test_every_place_is_one_that_nothing_else_answers_for():
    answering = {_places.place(e.name) for e in ENTRIES if e.state in {"below", "native", "open"}}
    assert set(PLACES) - answering == set()


def test_the_command_prints_names_counts_and_what_is_missing(capsys):
    assert cli.main(["gap", "--torch-module", "torch.cuda.nvtx"]) == 0
    *names, _, _, count, missing = capsys.readouterr().out.splitlines()
    assert names[0].split()[:2] == ["torch.cuda.nvtx._device_range_end", "stubbed"]
    assert count.startswith("torch.cuda: ") and missing == "missing: nothing"


def test_the_command_prints_json(capsys):
    assert cli.main(["gap", "--torch-module", "torch.cuda.nvtx", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["names"]["torch.cuda.nvtx.mark"]["state"] == "stubbed"
    assert printed["counts"]["torch.cuda"]["stubbed"] == len(printed["names"])


def test_the_command_fails_where_a_name_is_missing(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda.nvtx, "__all__", [*torch.cuda.nvtx.__all__, "__doc__"])
    assert cli.main(["gap", "--torch-module", "torch.cuda.nvtx"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "missing: torch.cuda.nvtx.__doc__"


def test_a_module_that_torch_lacks_is_named(capsys):
    assert cli.main(["gap", "--torch-module", "torch.no_such"]) == 2
    assert "has no module 'torch.no_such'" in capsys.readouterr().err


def test_the_page_of_docs_is_what_the_tables_say():
    page = (DOCS / "torch-surface.md").read_text()
    version = torch.__version__.partition("+")[0]
    if f"for torch {version};" not in page or torch.version.cuda is not None:
        pytest.skip("the page is written for another torch")
    assert page == _gap.markdown(ENTRIES)

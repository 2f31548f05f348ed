"""The tools of the benchmarks: tables in pages, pictures, and what they compare with."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from markdown import PAGES

ROOT = Path(__file__).parents[1]


@pytest.fixture
def part(monkeypatch):
    """Imports a module of `benchmarks/`."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


RESULTS = {
    "machine": "Linux, torch 9",
    "tables": {"startup": "| a |\n|---|\n| 1 |"},
    "overhead": [
        {"call": "`x + x`", "plain_us": 1.0, "patched_adds_us": 0.1, "ours_adds_us": 1.0},
        {"call": "`torch.device`", "plain_us": 1.0, "ours_adds_us": 2.0},
    ],
    "model_size": [
        {"size": "tiny", "native_ms": 1.0, "compiled": False}
        | {"redirected": 1.2, "default": 1.3, "patched": 1.0},
        {"size": "tiny", "native_ms": 0.5, "compiled": True} | {"redirected": 1.1, "default": 1.2},
    ],
}


def test_tables_are_put_where_a_page_says_so(part, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- benchmark: machine -->\n\nMeasured with old, on two cores.\n\n"
        "<!-- benchmark: startup -->\n\n| old |\n|---|\n\n<!-- benchmark: hook -->\n\n| kept |\n"
    )
    assert part("_pages").update(page, RESULTS["tables"], RESULTS["machine"]) == ["startup"]
    assert page.read_text() == (
        "<!-- benchmark: machine -->\n\nMeasured with Linux, torch 9, on two cores.\n\n"
        "<!-- benchmark: startup -->\n\n| a |\n|---|\n| 1 |\n\n"
        "<!-- benchmark: hook -->\n\n| kept |\n"
    )


def test_the_tables_of_the_pages_are_those_of_benchmarks(part):
    asked = {n for page in PAGES for n in re.findall(r"<!-- benchmark: (\w+)", page.read_text())}
    assert asked - {"machine"} == set(part("__main__").NAMES)


def test_the_pictures_of_the_same_figures_are_the_same(part, tmp_path):
    pytest.importorskip("matplotlib")
    drawn = [part("_plots").draw(RESULTS, tmp_path / name) for name in ("one", "two")]
    assert [path.name for path in drawn[0]] == ["overhead.svg", "model-size.svg"]
    for one, two in zip(*drawn, strict=True):
        assert one.read_bytes() == two.read_bytes()
        assert "torchdevice" in one.read_text()


def test_figures_can_be_shown_without_measuring(part, monkeypatch, tmp_path, capsys):
    figures = tmp_path / "figures.json"
    figures.write_text(json.dumps(RESULTS))
    page = tmp_path / "page.md"
    page.write_text("<!-- benchmark: startup -->\n\nWhat follows.\n")
    monkeypatch.setattr(sys, "argv", ["b", "--json", str(figures), "--from", "--update", str(page)])
    part("__main__").main()
    assert capsys.readouterr().out == f"{page}: startup\n"
    assert "| 1 |\n\nWhat follows." in page.read_text()


def test_the_wrapper_that_is_compared_with_redirects_and_is_taken_back(part):
    if torch.cuda.is_available():
        pytest.skip("requests for CUDA are CUDA's own here")
    before = dict(vars(torch)), dict(vars(torch.Tensor)), dict(vars(torch.nn.Module))
    with part("_patching").patched("cpu"):
        made = [torch.zeros(1, device="cuda"), torch.zeros(1).cuda(), torch.zeros(1).to("cuda")]
        made += [*torch.nn.Linear(1, 1).to("cuda").parameters(), torch.ones_like(made[0])]
        assert torch.cuda.is_available()
    assert {x.device.type for x in made} == {"cpu"}
    assert (dict(vars(torch)), dict(vars(torch.Tensor)), dict(vars(torch.nn.Module))) == before
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(1, device="cuda")

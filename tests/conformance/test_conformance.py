"""A part of the conformance run, and its tools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ._reasons import REASONS
from ._table import table

ROOT = Path(__file__).parents[2]


def run(*arguments):
    # Started as on a Mac, where no variable says that a device is simulated.
    known = {k: v for k, v in os.environ.items() if k != "TORCHDEVICE_TEST_SIMULATED"}
    return subprocess.run(
        [sys.executable, "-m", "tests.conformance", *arguments],
        cwd=ROOT,
        env={**known, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(
    os.environ.get("TORCHDEVICE_TEST_SIMULATED") != "1", reason="the device is not simulated"
)
def test_a_part_of_the_databases_is_equal_and_can_be_resumed(tmp_path):
    results = tmp_path / "results.jsonl"
    done = run("--results", str(results), "--part", "3/60")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = results.read_text().splitlines()
    assert len(lines) > 10 and sum(json.loads(line)["compared"] for line in lines) > 50
    # Cut off in the middle of a line: that entry and nothing else is run again.
    results.write_text("\n".join([*lines[:-1], lines[-1][:20]]) + "\n")
    again = run("--results", str(results), "--part", "3/60")
    assert again.returncode == 0 and "1/1" in again.stdout


def outcome(name, **different):
    return {"name": name, "compared": 7, "errors": 2, "different": different}


def test_the_table_counts_by_kind_and_gives_reasons():
    page = table([outcome("add"), outcome("to", backward="x"), outcome("nn.Linear")])
    assert "| operators | 2 | 1 | 1 | 14 | 4 |" in page
    assert "| modules | 1 | 1 | 0 | 7 | 2 |" in page
    assert f"| to | backward | {REASONS['to', 'backward']} |" in page
    assert "not explained: y" in table([outcome("add", errors="y")])
    assert "[simulated device](simulated-accelerator.md): same" in page
    assert "redirected to a Mac's device: same" in table([outcome("add")], simulated=False)

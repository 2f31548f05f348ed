"""Reports made up for the tests, and programs that are run for one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchdevice_mode._ledger import Entry, Site
from torchdevice_mode._report import collect
from torchdevice_mode._settings import Settings

SOURCE = Path(__file__).parents[2] / "src"


def an_entry(
    file="/home/me/train.py",
    line=1,
    kind="redirection",
    asked="cuda",
    given="mps:0",
    *,
    count=1,
    moved=0,
    seconds=0.0,
    reason="the machine has no cuda",
):
    return Entry(Site(str(file), line, "main", kind, asked, given, reason), count, moved, seconds)


@pytest.fixture
def report_of():
    """Makes a report of entries."""

    def make(*entries, **told):
        defaults = {
            "target": "mps:0",
            "target_reason": "mps is the machine's accelerator",
            "settings": Settings(),
            "versions": {"torchdevice": "0.1.0", "torch": "2.13.0"},
            "program": ["train.py", "--lr", "1"],
            "folder": "/home/me",
        }
        return collect(entries, **(defaults | told))

    return make


@pytest.fixture
def run_program(tmp_path):
    """Runs a program by `torchdevice run` in a folder of its own."""

    def run(source, *options, arguments=(), variables=None, timeout=120, name="program.py"):
        (tmp_path / name).write_text(source)
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), **(variables or {})}
        environment = {key: value for key, value in environment.items() if value is not None}
        command = [sys.executable, "-m", "torchdevice", "run", "--target", "cpu", *options]
        return subprocess.run(
            [*command, name, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run

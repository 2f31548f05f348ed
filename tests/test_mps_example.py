"""The example program for MPS under `torchdevice run`: on the CPU, on CUDA, and on MPS itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torchdevice_mode import simulate

EXAMPLE = Path(__file__).parents[1] / "examples" / "train_mps_spirals.py"
SIMULATION = ["--simulate", simulate.loaded_device()] if simulate.is_loaded() else []


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spirals")
    done = subprocess.run(
        [sys.executable, "-m", "torchdevice", "run", *SIMULATION, EXAMPLE, "--steps", "101"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def test_the_example_names_nothing_but_mps():
    source = EXAMPLE.read_text()
    assert not re.search(r"torchdevice|cuda", source)
    for named in ("is_available()", "torch.mps.Event", "autocast", 'map_location="mps"'):
        assert named in source


def test_the_program_trains(trained):
    said = trained[1].stdout
    first, *_, last = (float(loss) for loss in re.findall(r"^step \d+: loss ([\d.]+)", said, re.M))
    assert last < first * 0.8
    assert float(re.search(r"([\d.]+) ms a step", said)[1]) > 0
    assert float(re.search(r"([\d.]+) MiB allocated", said)[1]) >= 0
    assert float(re.search(r"accuracy ([\d.]+)", said)[1]) > 0.5
    assert "Warning" not in trained[1].stderr


def test_its_checkpoint_loads_in_plain_torch(trained):
    state = torch.load(trained[0] / "spirals.pt", map_location="cpu")
    assert {tensor.device.type for tensor in state.values()} == {"cpu"}

"""Whole CUDA programs, unmodified, started by torchrun and by torch.multiprocessing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import torch
from installation import ROOT, environment
from torch import nn

SIMULATED = {"1": "mps", "0": ""}.get(
    asked := os.environ.get("TORCHDEVICE_TEST_SIMULATED", ""), asked
)
TARGET = ["--simulate", SIMULATED] if SIMULATED else ["--target", "cpu"]
PROGRAMS = Path(__file__).parent / "programs"
# Where each imports torch for a second or two, more than two ranks are enough in one of the runs.
RANKS = 2 if SIMULATED else 4


def run(hooked, *words: object) -> subprocess.CompletedProcess[str]:
    """What `torchdevice run` does with a program, in a limited time."""
    return subprocess.run(
        [hooked.python, "-m", "torchdevice", "run", *TARGET, *map(str, words)],
        env=environment(PYTHONPATH=str(ROOT / "src"), OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=150,
    )


def torchrun(hooked, count: int, *words: object) -> subprocess.CompletedProcess[str]:
    program = [PROGRAMS / "train.py", *words]
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", count]
    return run(hooked, "-m", *launch, *program)


def in_one_process() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    inputs = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
    for batch in inputs.split(8):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(batch), torch.ones(8, 1)).backward()
        optimizer.step()
    return model.state_dict()


def test_processes_of_torchrun_train_what_one_process_trains(hooked, tmp_path):
    done = torchrun(hooked, RANKS, tmp_path / "result.pt")
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "result.pt", map_location="cpu")
    assert (found["seen"], found["device"]) == (32, f"{SIMULATED}:0" if SIMULATED else "cpu")
    expected = in_one_process()
    assert found["state"].keys() == expected.keys()
    for name, value in found["state"].items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=0)
    assert "Traceback" not in done.stderr


def test_a_killed_process_ends_the_job_with_the_error_of_torchrun(hooked, tmp_path):
    done = torchrun(hooked, 2, tmp_path / "result.pt", 1)
    assert done.returncode == 1
    assert "ChildFailedError" in done.stderr
    assert "Signal 9 (SIGKILL) received by PID" in done.stderr
    assert not (tmp_path / "result.pt").exists()


def test_processes_of_torch_multiprocessing_form_a_group(hooked, tmp_path):
    done = run(hooked, PROGRAMS / "spawn.py", tmp_path / "group")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{SIMULATED or 'cpu'} [[1.0, 1.0]] [[1.5, 1.5]]\n"

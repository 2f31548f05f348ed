"""The example program under `torchdevice run`, as a newcomer runs it, for a few steps."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torchdevice_mode import simulate

pytest.importorskip("tqdm")

EXAMPLE = Path(__file__).parents[1] / "examples" / "train_char_transformer.py"
SMALL = (
    "--layers 2 --width 64 --heads 4 --block-size 32 --batch-size 32 --lr 5e-3 --warmup 10 "
    "--steps 60 --eval-every 60 --eval-batches 8 --workers 1 --sample-length 30"
).split()
SIMULATION = ["--simulate", simulate.loaded_device()] if simulate.is_loaded() else []


def train(folder, *options, simulation=SIMULATION):
    """Run the example in a folder; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "torchdevice", "run", *simulation, EXAMPLE, *SMALL, *options],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("example")


@pytest.fixture(scope="module")
def trained(folder):
    """The first training; its checkpoint is in the folder."""
    return train(folder)


@pytest.fixture
def checkpoint(trained, folder):
    """The checkpoint as plain torch on a machine without the device loads it."""
    return torch.load(folder / "out" / "best.pt", map_location="cpu", weights_only=True)


def losses(text):
    return [float(loss) for loss in re.findall(r"^step \d+:.*validation loss ([\d.]+)", text, re.M)]


def test_the_example_names_nothing_but_cuda():
    source = EXAMPLE.read_text()
    assert not re.search(r"torchdevice|mps|is_available\(\) else", source)
    for named in (
        ".cuda()",
        "pin_memory=True",
        "non_blocking=True",
        "num_workers",
        "torch.cuda.amp.GradScaler()",
        "torch.cuda.Event(enable_timing=True)",
        "torch.cuda.max_memory_allocated()",
        "torch.backends.cudnn.benchmark",
        'map_location="cuda"',
    ):
        assert named in source


def test_the_loss_falls(trained):
    first, last = losses(trained.stdout)
    assert 4.1 < first < 4.6
    assert last < 3.0


def test_it_ends_with_a_sample(trained):
    _, _, sample = trained.stdout.partition("-" * 72 + "\n")
    assert sample.startswith("Anne ")
    assert len(sample.strip("\n")) >= len("Anne ") + 20


def test_the_summary_names_the_lines_that_were_redirected(trained):
    summary = trained.stderr[trained.stderr.index("torchdevice: ") :]
    source = EXAMPLE.read_text().splitlines()
    listed = re.findall(r"^ +([\d,]+)x  \S*train_char_transformer\.py:(\d+)  (.*)$", summary, re.M)
    assert len(listed) == 5
    for _, line, text in listed:
        begins = " ".join(source[int(line) - 1].split())[:40]
        assert begins in text
    busiest, _, text = listed[0]
    assert int(busiest) == 120  # both tensors of each step's batch
    assert "x, y = x.cuda(non_blocking=True)" in text


def test_what_it_prints_is_free_of_warnings(trained):
    assert "Warning" not in trained.stderr


def test_the_checkpoint_loads_in_plain_torch(checkpoint):
    assert checkpoint["step"] == 60
    tensors = [*checkpoint["model"].values(), checkpoint["rng_state"]]
    tensors += [t for state in checkpoint["optimizer"]["state"].values() for t in state.values()]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
    assert checkpoint["model"]["tok_emb.weight"].dtype is torch.float32
    assert all(tensor.isfinite().all() for tensor in checkpoint["model"].values())


def test_training_resumes_where_it_ended(folder, checkpoint):
    place = str(folder / "out" / "best.pt")
    again = train(folder, "--resume", place, "--steps", "100", "--out-dir", "again")
    assert f"resumed from {place} at step 60, validation loss" in again.stdout
    assert losses(again.stdout)[-1] < checkpoint["best_val"]
    resumed = torch.load(folder / "again" / "best.pt", map_location="cpu", weights_only=True)
    assert resumed["step"] == 100
    assert {int(state["step"]) for state in resumed["optimizer"]["state"].values()} == {100}


@pytest.mark.skipif(not SIMULATION, reason="both trainings are on the CPU")
def test_what_was_trained_on_the_accelerator_goes_on_without_it(folder, checkpoint):
    place = str(folder / "out" / "best.pt")
    again = train(folder, "--resume", place, "--steps", "61", "--out-dir", "cpu", simulation=[])
    assert losses(again.stdout)[-1] == pytest.approx(checkpoint["best_val"], abs=0.2)

"""Runs checks in processes that form a group, and brings back what each rank found.

A module of `checks` has functions that take a `Rank` and give something to compare. One group of
processes runs all of them, as importing torch takes longer than the checks do.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import pickle
import subprocess
import sys
import warnings
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LIMIT = 100
"""Seconds after which processes are killed: nothing may hang."""


@dataclass(frozen=True)
class Rank:
    """Which of the processes this is."""

    rank: int
    size: int
    folder: Path


@dataclass(frozen=True)
class Raised:
    """What a check raised."""

    kind: str
    text: str


def environment() -> dict[str, str]:
    """The environment for another process that imports this package and the tests."""
    paths = [str(ROOT / "src"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    kept = {name: value for name, value in os.environ.items() if name != "LOCAL_WORLD_SIZE"}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}


def run_ranks(checks: str, folder: Path, size: int = 2) -> list[dict[str, Any]]:
    """Run all checks of a module on a number of ranks.

    Args:
        checks: The module's name below `checks`.
        folder: Where the ranks meet and leave what they found.
        size: How many.

    Returns:
        For each rank what each check gave, or what it raised.
    """
    command = [sys.executable, "-c", f"from {__name__} import main; main()", checks]
    running = [
        subprocess.Popen(
            [*command, str(rank), str(size), str(folder)],
            env=environment(),
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        errors = [process.communicate(timeout=LIMIT)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    for process, error in zip(running, errors, strict=True):
        assert process.returncode == 0, (process.returncode, error)
    return [pickle.loads((folder / f"rank{rank}").read_bytes()) for rank in range(size)]


def main() -> None:
    """One rank: form the group as a CUDA program does, and run every check in it."""
    checks, rank, size, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    simulated = {"1": "mps", "0": ""}.get(
        asked := os.environ.get("TORCHDEVICE_TEST_SIMULATED", ""), asked
    )
    import torch
    import torch.distributed as dist

    import torchdevice

    faulthandler.dump_traceback_later(LIMIT - 10, exit=True)  # so that it is seen where one waits
    warnings.simplefilter("ignore")
    if simulated:
        torchdevice.simulate.load(simulated)
    module = importlib.import_module(f"{__package__}.checks.{checks}")
    here = Rank(rank, size, folder)
    before = getattr(module, "BEFORE", dict)()
    torchdevice.enable()
    dist.init_process_group(
        "nccl",
        store=dist.FileStore(str(folder / "store"), size),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),
        **getattr(module, "FORMED", lambda rank: {})(rank),
    )
    torch.cuda.set_device(rank)
    found = dict(before)
    for name, check in module.CHECKS.items():
        try:
            found[name] = check(here)
        except Exception as error:
            found[name] = Raised(type(error).__name__, str(error))
    dist.destroy_process_group()
    torchdevice.disable()
    (folder / f"rank{rank}").write_bytes(pickle.dumps(found))

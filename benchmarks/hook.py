"""What the start-up hook costs a Python that starts, which most often imports no torch.

CPU time of whole processes, in an environment with the package and the hook and in one without.
Python reads such files twice in a virtual environment, so this is the dear case.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import venv
from pathlib import Path

import torchdevice_mode

from ._measure import table

PACKAGE = Path(torchdevice_mode.__file__).parent
HOOK = PACKAGE.parent / "torchdevice_start_up.pth"


def _environment(folder: Path, *, hook: bool) -> str:
    venv.create(folder, symlinks=True, with_pip=False)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    shutil.copytree(PACKAGE, packages / PACKAGE.name)
    if hook:
        shutil.copy(HOOK, packages)
    return str(folder / "bin" / "python")


def _start(python: str, variables: dict[str, str]) -> float:
    """CPU seconds of a Python that does nothing."""
    process = os.posix_spawn(python, [python, "-c", "pass"], variables)
    _, _, used = os.wait4(process, 0)
    return used.ru_utime + used.ru_stime


def measure(*, quick: bool = False) -> tuple[list[dict[str, object]], str]:
    """Run the benchmark.

    Args:
        quick: Ten starts of each kind instead of 200.

    Returns:
        One record, and the table.
    """
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("PYTHON", "ACTIVATE_"))}
    with tempfile.TemporaryDirectory() as folder:
        without = _environment(Path(folder, "without"), hook=False)
        hooked = _environment(Path(folder, "hooked"), hook=True)
        cases = {
            "without the hook": (without, kept),
            "with it, idle": (hooked, kept),
            "with it, `ACTIVATE_TORCH_DEVICE=1`": (hooked, kept | {"ACTIVATE_TORCH_DEVICE": "1"}),
        }
        # One after the other, so that what else the machine does falls on all alike.
        rounds = [[_start(*case) for case in cases.values()] for _ in range(11 if quick else 201)]
    seconds = [statistics.median(times) for times in zip(*rounds[1:], strict=True)]
    record: dict[str, object] = {
        name: value * 1e3 for name, value in zip(cases, seconds, strict=True)
    }
    rows = [
        [name, f"{value * 1e3:.2f} ms", f"{value / seconds[0]:.3f}"]
        for name, value in zip(cases, seconds, strict=True)
    ]
    return [record], table(["Start of Python", "CPU time", "of the first"], rows)

"""Environments of their own with the package installed, for tests of what installing does."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
HOOK = "torchdevice_start_up.pth"


def wheel(folder: Path, *, editable: bool) -> Path:
    """The wheel that an installer would build of this checkout."""
    build = pytest.importorskip("hatchling.build")
    if editable:
        pytest.importorskip("editables")
    here = Path.cwd()
    os.chdir(ROOT)
    try:
        make = build.build_editable if editable else build.build_wheel
        return folder / make(str(folder))
    finally:
        os.chdir(here)


def environment(**variables: str) -> dict[str, str]:
    """The environment of a machine on which the package is known by its installation alone."""
    taken = ("TORCHDEVICE_", "PYTHON", "ACTIVATE_", "TORCH_ALLOW")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(taken)}
    return kept | {"PYTHONDONTWRITEBYTECODE": "1"} | variables


class Installation:
    """An environment of its own with the package in it, and the torch of these tests."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True, with_pip=False)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.python = folder / "bin" / "python"
        self.packages = folder / "lib" / version / "site-packages"
        # On the path only: what other packages have Python do when it starts stays out.
        (self.packages / "zz_torch.pth").write_text(str(Path(torch.__file__).parents[1]))

    def add_hook(self) -> None:
        """Install the start-up hook alone; its package is found by `PYTHONPATH`, if at all."""
        (self.packages / HOOK).write_text((ROOT / "src" / HOOK).read_text())

    def run(self, code: str, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run code as one does who has nothing but this installation."""
        return self.execute([*flags, "-c", code], **variables)

    def execute(self, words: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, *words],
            env=environment(**variables),
            capture_output=True,
            text=True,
            timeout=180,
        )

"""Every Python that the package is for can read it: tried with those that this machine has."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from test_layers import FILES, PACKAGE, WITHOUT_TORCH

ROOT = PACKAGE.parents[1]
VERSIONS = re.findall(
    r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text()
)
OLDEST = tuple(map(int, VERSIONS[0].split(".")))
NEEDS_NO_TORCH = (*WITHOUT_TORCH, "cli", "_run", "pytest_plugin")


@cache
def interpreter(version: str) -> str | None:
    """A Python of this version: on the path, or among those that pyenv has installed."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    installed = [str(path) for path in pyenv.glob(f"{version}.*/bin/python{version}")]
    for found in [*installed, shutil.which(f"python{version}")]:
        if (
            found
            and subprocess.run([found, "-V"], capture_output=True, check=False).returncode == 0
        ):
            return found
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_oldest_python_can_parse_a_file(path):
    ast.parse(path.read_text(), feature_version=OLDEST)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_needs_no_torch_can_be_imported(version):
    python = interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    # The plugin is imported where pytest is.
    code = """if True:
        import importlib, sys, torchdevice
        for name in sys.argv[1:]:
            try:
                importlib.import_module(f"torchdevice_mode.{name}")
            except ModuleNotFoundError as error:
                assert error.name in ("pytest", "psutil"), error
        assert torchdevice.__version__ and "redirect" in dir(torchdevice)
    """
    done = subprocess.run(
        [python, "-W", "error", "-B", "-c", code, *NEEDS_NO_TORCH],
        env={"PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

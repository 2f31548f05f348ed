"""The start-up hook: `ACTIVATE_TORCH_DEVICE=1` redirects any Python, and nothing breaks one."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from installation import ROOT, Installation, environment, wheel

import torchdevice_mode
from torchdevice_mode import TorchDeviceWarning, _startup
from torchdevice_mode._log import forget_warnings


@pytest.fixture(scope="module", params=["normal", "editable"])
def installed(request, tmp_path_factory):
    installation = Installation(tmp_path_factory.mktemp(request.param))
    built = wheel(tmp_path_factory.mktemp("wheel"), editable=request.param == "editable")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(installation.packages)
    return installation


@pytest.fixture(scope="module")
def hooked(tmp_path_factory):
    """The hook alone: its package is there only if a test puts it there."""
    installation = Installation(tmp_path_factory.mktemp("hooked"))
    installation.add_hook()
    return installation


ASKS_FOR_CUDA = "import torch; print(torch.ones(1, device='cuda').device)"


def test_a_python_that_is_asked_to_redirects_from_the_import_of_torch_on(installed):
    code = f"import sys; assert 'torch' not in sys.modules; {ASKS_FOR_CUDA}"
    done = installed.run(code, ACTIVATE_TORCH_DEVICE="1", TORCHDEVICE_TARGET="cpu")
    assert (done.returncode, done.stdout, done.stderr) == (0, "cpu\n", "")


@pytest.mark.parametrize("value", ["", "0"])
def test_a_python_that_is_not_asked_to_imports_nothing_of_the_package(installed, value):
    code = "import sys; print([name for name in sys.modules if 'torchdevice' in name])"
    done = installed.run(code, ACTIVATE_TORCH_DEVICE=value)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_an_idle_python_imports_next_to_nothing():
    code = (
        "import os, sys; before = set(sys.modules)\n"
        "from torchdevice_mode import _startup; _startup.begin()\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    # Without `site`, which would have run the hook already where it is installed.
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env=environment(ACTIVATE_TORCH_DEVICE="1", PYTHONPATH=str(ROOT / "src")),
        capture_output=True,
        text=True,
        timeout=60,
    )
    own = [f"torchdevice_mode.{name}" for name in ("_imports", "_startup", "_variables", "errors")]
    assert done.stdout.split() == ["__future__", "torchdevice_mode", *own], done.stderr


@pytest.mark.parametrize("flag", ["-I", "-E"])
def test_the_hook_holds_where_python_ignores_its_own_variables(installed, flag):
    code = "import sys; print('torchdevice_mode._startup' in sys.modules)"
    assert installed.run(code, flag, ACTIVATE_TORCH_DEVICE="1").stdout == "True\n"


BROKEN = {
    "missing": {},
    "wrong": {"torchdevice_mode/__init__.py": "def broken(:\n"},
    "half": {"torchdevice_mode/__init__.py": ""},
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_install_is_one_line_and_python_goes_on(hooked, broken, tmp_path):
    for name, text in BROKEN[broken].items():
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text(text)
    done = hooked.run("print('ran')", ACTIVATE_TORCH_DEVICE="1", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("torchdevice: ACTIVATE_TORCH_DEVICE is set, but nothing is")


def test_a_broken_install_is_not_noticed_where_nothing_is_asked(hooked):
    done = hooked.run("print('ran')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "")


FAILURES = {
    "a target that is not here": ({"TORCHDEVICE_TARGET": "xpu"}, "target='xpu' is not on this"),
    "a bad setting": ({"TORCHDEVICE_POLICY": "never"}, "TORCHDEVICE_POLICY='never' is not a value"),
    "a device that cannot be simulated": ({"TORCHDEVICE_SIMULATE": "tpu"}, "no simulated 'tpu'"),
}


@pytest.fixture
def said_anew():
    """What this process has warned of before does not count."""
    forget_warnings()
    yield
    forget_warnings()


@pytest.mark.parametrize("failure", FAILURES)
def test_what_fails_at_the_import_of_torch_is_one_warning(failure, monkeypatch, said_anew):
    variables, words = FAILURES[failure]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.warns(TorchDeviceWarning, match=words) as said:
        _startup._enable()
    assert [warning.message.slug for warning in said] == ["start-up"]
    assert not torchdevice_mode.is_active()


def test_where_warnings_are_errors_torch_is_imported_all_the_same(hooked):
    done = hooked.run(
        "import torch; print(torch.zeros(1).device)",
        *("-W", "error"),
        ACTIVATE_TORCH_DEVICE="1",
        TORCHDEVICE_TARGET="xpu",
        PYTHONPATH=str(ROOT / "src"),
    )
    assert (done.returncode, done.stdout) == (0, "cpu\n"), done.stderr
    assert done.stderr.startswith("torchdevice: nothing is redirected in process")
    assert done.stderr.count("\n") == 1


def test_a_value_that_is_neither_true_nor_false_is_told(hooked):
    done = hooked.run("", ACTIVATE_TORCH_DEVICE="maybe", PYTHONPATH=str(ROOT / "src"))
    assert done.returncode == 0
    assert "ACTIVATE_TORCH_DEVICE='maybe' is neither true nor false" in done.stderr


def test_what_a_process_is_told_replaces_what_the_hook_began(monkeypatch):
    waiting = []
    monkeypatch.setattr(
        _startup, "when_imported", lambda name, action: waiting.append(name) or waiting.clear
    )
    monkeypatch.setenv("ACTIVATE_TORCH_DEVICE", "1")
    monkeypatch.setenv("TORCHDEVICE_TARGET", "mps")
    _startup.begin()
    assert waiting == ["torch"]
    _startup.begin_as_told({"ACTIVATE_TORCH_DEVICE": None, "TORCHDEVICE_TARGET": "cpu"})
    assert waiting == []
    assert os.environ["TORCHDEVICE_TARGET"] == "cpu"


def test_inductors_compile_workers_are_left_alone(monkeypatch):
    monkeypatch.setattr(
        sys, "argv", [str(Path(torch.__file__).parents[1] / _startup._COMPILE_WORKER)]
    )
    _startup._enable()
    assert not torchdevice_mode.is_active()
    assert Path(sys.argv[0]).exists()

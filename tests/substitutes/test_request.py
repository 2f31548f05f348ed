"""Substitutes are there when asked for by name; otherwise an import only says that there are."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import threading
import traceback

import pytest

import torchdevice_mode
from torchdevice_mode import _packages, _substitutes
from torchdevice_mode._settings import Settings
from torchdevice_mode._substitutes import _table
from torchdevice_mode._substitutes._held import has
from torchdevice_mode.errors import SettingsError, UnsupportedByTargetError

WITHOUT_SUBSTITUTE = sorted(set(_packages.PACKAGES) - set(_packages.SUBSTITUTES))


@pytest.fixture(autouse=True)
def imports_are_left_as_they_were():
    finders, modules = list(sys.meta_path), dict(sys.modules)
    yield
    assert sys.meta_path == finders
    ours = {name for name in sys.modules if name.partition(".")[0] in _packages.PACKAGES}
    assert {name: sys.modules[name] for name in ours} == {
        name: module for name, module in modules.items() if name in ours
    }


def missing(name):
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    return name


def fail_to_import(name):
    with pytest.raises(ImportError) as caught:
        importlib.import_module(name)
    return caught.value


# --- an import that fails -----------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(_packages.PACKAGES))
def test_a_missing_package_fails_as_ever_with_a_note(name, redirected):
    missing(name)
    error = fail_to_import(name)
    assert (type(error), error.name) == (ModuleNotFoundError, name)
    text = "".join(traceback.format_exception(error))
    assert f"ModuleNotFoundError: No module named {name!r}\n" in text
    # Releases of this one compute on the CPU and on MPS, so a GPU is not what it needs.
    asked = "is missing: install" if name == "bitsandbytes" else "needs an NVIDIA GPU"
    assert f"torchdevice: {name} {asked}" in text
    assert (f"--substitute {name}" in text) == (name in _packages.SUBSTITUTES)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="such Pythons have no notes")
def test_the_message_itself_is_pythons(redirected):
    error = fail_to_import(missing("cupy"))
    assert str(error) == "No module named 'cupy'"
    assert len(error.__notes__) == 1


def test_pythons_without_notes_find_it_in_the_message(redirected, monkeypatch):
    missing("cupy")
    monkeypatch.setattr(_packages.sys, "version_info", (3, 10, 0))
    error = fail_to_import("cupy")
    assert str(error).startswith("No module named 'cupy'\ntorchdevice: cupy")
    assert error.name == "cupy"


def test_the_traceback_ends_at_the_programs_own_line(redirected):
    missing("flash_attn")
    try:
        import flash_attn  # noqa: F401
    except ImportError as error:
        files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        assert files == [__file__]
    else:
        pytest.fail("imported")


def test_a_submodule_of_a_missing_package_fails_by_the_packages_name(redirected):
    missing("flash_attn")
    assert fail_to_import("flash_attn.bert_padding").name == "flash_attn"


@pytest.mark.parametrize("name", ["flash_attn", "cupy"])
def test_who_only_looks_for_a_package_finds_nothing(name, redirected):
    assert importlib.util.find_spec(missing(name)) is None
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("flash-attn")


def test_another_module_that_is_missing_is_none_of_our_business(redirected):
    error = fail_to_import("no_such_module_anywhere")
    assert not hasattr(error, "__notes__")


def test_without_redirection_there_is_no_note(redirected):
    missing("cupy")
    with torchdevice_mode.native():
        assert not hasattr(fail_to_import("cupy"), "__notes__")


def test_a_finder_that_comes_later_is_asked_first(redirected, tmp_path, monkeypatch):
    missing("cupy")
    (tmp_path / "cupy.py").write_text("answer = 42")

    class Late:
        def find_spec(self, name, path, target=None):
            if name == "cupy":
                return importlib.util.spec_from_file_location(name, tmp_path / "cupy.py")
            return None

    late = Late()
    sys.meta_path.append(late)
    try:
        assert importlib.import_module("cupy").answer == 42
    finally:
        sys.meta_path.remove(late)
        del sys.modules["cupy"]


# --- a substitute that was asked for ------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(_table.MODULES))
def test_every_module_imports_and_has_what_the_table_lists(name):
    with torchdevice_mode.redirect(substitutes=[name.partition(".")[0]]):
        module = importlib.import_module(name)
        for missing_name in _table.MODULES[name].absent:
            with pytest.raises(UnsupportedByTargetError, match=f"{name}.{missing_name} "):
                getattr(module, missing_name)()
            with pytest.raises(UnsupportedByTargetError, match=f"{name}.{missing_name}.make "):
                getattr(module, missing_name).make
        for listed in _table.MODULES[name].names:
            assert hasattr(module, listed)
        # The doctor tells the same without importing.
        for held in module.__all__:
            assert has(f"{name}.{held}") is (held not in _table.MODULES[name].absent), held
        assert has(name) and not has(f"{name}.nonsense")
        assert hasattr(module, "nonsense") is False
        with pytest.raises(UnsupportedByTargetError, match=f"{name}.nonsense "):
            module.nonsense
        with pytest.raises(ImportError, match=f"cannot import name 'nonsense' from '{name}'"):
            exec(f"from {name} import nonsense", {})


@pytest.mark.parametrize("package", sorted(_table.DISTRIBUTIONS))
def test_what_is_said_of_a_substitute_says_that_it_is_one(package):
    known = _table.DISTRIBUTIONS[package]
    with torchdevice_mode.redirect(substitutes=[package]):
        assert importlib.util.find_spec(package).origin.startswith(
            os.path.dirname(torchdevice_mode.__file__)
        )
        module = importlib.import_module(package)
        assert importlib.util.find_spec(package) is module.__spec__
        assert module.__version__ == importlib.metadata.version(known.name) == known.version
        assert known.version.endswith("+torchdevice")
        assert "substitute" in importlib.metadata.metadata(known.name)["Summary"]
        assert known.name in importlib.metadata.packages_distributions()[package]


def test_a_module_that_the_substitute_lacks_is_missing_with_a_note():
    with torchdevice_mode.redirect(substitutes=["flash_attn"]):
        error = fail_to_import("flash_attn.cute")
        assert (type(error), error.name) == (ModuleNotFoundError, "flash_attn.cute")
        assert "has no module flash_attn.cute" in "".join(traceback.format_exception(error))


def test_its_functions_stay_good_when_the_block_is_left():
    import torch

    with torchdevice_mode.redirect(substitutes=["flash_attn"]):
        import flash_attn
        from flash_attn import flash_attn_func
    assert "flash_attn" not in sys.modules
    x = torch.ones(1, 2, 1, 8, dtype=torch.float16)
    assert torch.equal(flash_attn_func(x, x, x), x)
    assert torch.equal(flash_attn.flash_attn_func(x, x, x), x)
    assert flash_attn.flash_attn_interface.flash_attn_func is flash_attn_func


def test_blocks_nest_and_the_last_to_leave_takes_it_away():
    with torchdevice_mode.redirect(substitutes=["flash_attn"]):
        import flash_attn

        with torchdevice_mode.redirect(substitutes=["flash_attn"], policy="explicit"):
            assert importlib.import_module("flash_attn") is flash_attn
        assert sys.modules["flash_attn"] is flash_attn
    assert "flash_attn" not in sys.modules


def test_blocks_of_two_threads_share_it():
    entered, leave = threading.Event(), threading.Event()

    def other():
        with torchdevice_mode.redirect(substitutes=["flash_attn"]):
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=other)
    with torchdevice_mode.redirect(substitutes=["flash_attn"]):
        import flash_attn

        thread.start()
        assert entered.wait(30)
    assert sys.modules["flash_attn"] is flash_attn
    leave.set()
    thread.join()
    assert "flash_attn" not in sys.modules


def test_enable_and_disable():
    torchdevice_mode.enable(substitutes=["flash_attn"])
    try:
        import flash_attn

        assert flash_attn.__version__.endswith("+torchdevice")
    finally:
        torchdevice_mode.disable()
    assert "flash_attn" not in sys.modules


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package that is installed under the name of flash_attn."""
    if "flash_attn" in sys.modules or importlib.util.find_spec("flash_attn"):
        pytest.skip("flash_attn is installed")
    folder = tmp_path / "flash_attn"
    folder.mkdir()
    (folder / "__init__.py").write_text("real = True\n__version__ = '2.0'\n")
    (folder / "part.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("flash_attn", "flash_attn.part"):
        sys.modules.pop(name, None)


def test_an_installed_package_comes_back_by_identity(installed):
    import flash_attn as real
    import flash_attn.part

    part = sys.modules["flash_attn.part"]
    with torchdevice_mode.redirect("cpu", substitutes=["flash_attn"]):
        import flash_attn

        assert not hasattr(flash_attn, "real")
        assert "flash_attn.part" not in sys.modules
    assert sys.modules["flash_attn"] is real and sys.modules["flash_attn.part"] is part


def test_the_log_says_why_an_installed_package_is_passed_over(installed, monkeypatch):
    said = []
    monkeypatch.setattr(_substitutes.logger, "isEnabledFor", lambda level: True)
    monkeypatch.setattr(_substitutes.logger, "info", lambda text, *given: said.append(text % given))
    with torchdevice_mode.redirect("cpu", substitutes=["flash_attn"]):
        pass
    assert "flash_attn is torchdevice's substitute: the one that is installed" in said[0]


def test_where_the_target_is_cuda_an_installed_package_wins(installed):
    _substitutes.begin(["flash_attn"], "cuda")
    try:
        import flash_attn

        assert flash_attn.real
    finally:
        _substitutes.end(["flash_attn"])
        assert flash_attn is sys.modules["flash_attn"]


# --- how it is asked for ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", ["flash_attn", "flash-attn", ["flash_attn"], ("flash_attn", "flash_attn")]
)
def test_names_are_given_in_any_form(given):
    assert Settings.load({}, substitutes=given).substitutes == ("flash_attn",)


@pytest.mark.parametrize(
    ("environment", "arguments", "words"),
    [
        ({}, {"substitutes": ["numpy"]}, "numpy"),
        ({}, {"substitutes": ["triton"]}, "triton"),
        ({"TORCHDEVICE_SUBSTITUTES": "flash_attn,numpy"}, {}, "TORCHDEVICE_SUBSTITUTES"),
    ],
)
def test_a_package_without_a_substitute_is_a_bad_value(environment, arguments, words):
    with pytest.raises(SettingsError, match=words) as caught:
        Settings.load(environment, **arguments)
    assert "flash_attn" in str(caught.value)


def test_child_processes_are_told():
    settings = Settings.load({}, substitutes=_packages.SUBSTITUTES)
    assert Settings.load(settings.to_environment()) == settings


PROGRAM = """
from flash_attn import flash_attn_func
import torch
q = torch.ones(1, 2, 1, 8, dtype=torch.float16, device="cuda")
print(flash_attn_func(q, q, q).sum().item())
"""


@pytest.mark.parametrize("first", ["", "import torch\n"])
def test_the_command_puts_it_there_whatever_is_imported_first(first, tmp_path):
    script = tmp_path / "program.py"
    script.write_text(first + PROGRAM)
    command = [sys.executable, "-m", "torchdevice", "run", "--quiet"]
    command += ["--substitute", "flash_attn", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("16.0\n", "", 0)


def test_the_command_adds_the_note_before_torch_is_imported(tmp_path):
    missing("flash_attn")
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    command = [sys.executable, "-m", "torchdevice", "run", "--quiet", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert lines[-2] == "ModuleNotFoundError: No module named 'flash_attn'"
    assert "--substitute flash_attn" in lines[-1]


def test_enabling_without_any_imports_none_of_it():
    code = (
        "import sys, torch, torchdevice; torchdevice.enable()\n"
        "assert not [m for m in sys.modules if 'torchdevice_mode._substitutes' in m]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

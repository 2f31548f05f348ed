"""The logger's levels, redirections logged once a call site, and warnings at the user's line."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import textwrap
import threading
import types
import warnings

import pytest
import torch

import torchdevice_mode
from torchdevice_mode import _log
from torchdevice_mode._log import configure, forget_warnings, logger, user_frame, warn_once
from torchdevice_mode.errors import SettingsError, TorchDeviceWarning


@pytest.fixture(autouse=True)
def logger_is_put_back(monkeypatch):
    monkeypatch.delenv("TORCHDEVICE_LOG_LEVEL", raising=False)
    monkeypatch.delenv("TORCHDEVICE_SILENCE", raising=False)
    level, handlers, propagate = logger.level, list(logger.handlers), logger.propagate
    forget_warnings()
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers
    logger.propagate = propagate


# --- levels -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "variable", "level"),
    [
        (None, None, logging.WARNING),
        (None, "", logging.WARNING),
        (None, "INFO", logging.INFO),
        (None, "debug", logging.DEBUG),
        (None, "Error", logging.ERROR),
        ("info", "ERROR", logging.INFO),
    ],
)
def test_the_level_comes_from_argument_variable_or_default(monkeypatch, argument, variable, level):
    if variable is not None:
        monkeypatch.setenv("TORCHDEVICE_LOG_LEVEL", variable)
    configure(argument)
    assert logger.level == level


@pytest.mark.parametrize("level", ["LOUD", "10", "CRITICAL", "INFO "])
def test_a_level_that_is_none_is_an_error_that_names_those_there_are(monkeypatch, level):
    monkeypatch.setenv("TORCHDEVICE_LOG_LEVEL", level)
    with pytest.raises(SettingsError, match="'DEBUG', 'INFO', 'WARNING' or 'ERROR'") as caught:
        configure()
    assert repr(level) in str(caught.value)


def test_a_bad_level_leaves_nothing_half_enabled(monkeypatch):
    monkeypatch.setenv("TORCHDEVICE_LOG_LEVEL", "LOUD")
    with pytest.raises(SettingsError), torchdevice_mode.redirect():
        pass
    assert not torchdevice_mode.is_active()
    monkeypatch.delenv("TORCHDEVICE_LOG_LEVEL")
    with torchdevice_mode.redirect():
        assert torchdevice_mode.is_active()


def no_handlers(monkeypatch):
    """As in a program that has not configured logging; pytest puts handlers on the root."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    logger.handlers.clear()


def test_without_handlers_it_gets_one_that_names_it(monkeypatch, capsys):
    no_handlers(monkeypatch)
    configure("INFO")
    configure("INFO")
    (handler,) = logger.handlers
    handler.setStream(sys.stderr)
    logger.info("said")
    assert capsys.readouterr().err == "torchdevice: said\n"
    assert not logger.propagate


def test_a_programs_own_handlers_are_left_alone(monkeypatch):
    no_handlers(monkeypatch)
    logging.getLogger().handlers.append(logging.NullHandler())
    configure("INFO")
    assert logger.handlers == []
    assert logger.propagate


# --- redirections, at INFO --------------------------------------------------------------------


@pytest.fixture
def messages(monkeypatch, caplog):
    """What was logged at INFO, as text."""
    monkeypatch.setenv("TORCHDEVICE_LOG_LEVEL", "INFO")
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(torchdevice_mode._session, "ledger", torchdevice_mode.ledger().__class__())
    return lambda: caplog.messages


def test_a_call_site_is_logged_once(messages):
    line = sys._getframe().f_lineno + 3
    with torchdevice_mode.redirect(target="cpu"):
        for _ in range(3):
            torch.zeros(1, device="cuda:1")
        torch.ones(1, device="cuda")
    assert messages() == [
        f"{__file__}:{line}: cuda:1 -> cpu (the machine has no cuda)",
        f"{__file__}:{line + 1}: cuda -> cpu (the machine has no cuda)",
    ]


def test_at_the_default_level_nothing_is_logged(messages, monkeypatch):
    monkeypatch.delenv("TORCHDEVICE_LOG_LEVEL")
    with torchdevice_mode.redirect(target="cpu"):
        torch.zeros(1, device="cuda")
    assert messages() == []


def test_the_toggle_of_the_override_is_logged(messages):
    with torchdevice_mode.redirect():
        torch.device("cpu:-1")
        torch.device("cpu:-1")
    assert messages() == [
        "cpu:-1 turned the CPU override on",
        "cpu:-1 turned the CPU override off",
    ]


# --- warnings ---------------------------------------------------------------------------------


def said(call, *args, **kwargs):
    """Texts and places of what a call warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(*args, **kwargs)
    return [(str(w.message), w.filename, w.lineno) for w in caught]


def test_a_warning_is_said_once_and_ends_with_its_slug():
    (first,) = said(warn_once, "a-slug", "Something is so: do that.")
    assert first[0] == "Something is so: do that. [a-slug]"
    assert said(warn_once, "a-slug", "Something is so: do that.") == []
    assert len(said(warn_once, "b-slug", "Something is so: do that.")) == 1


def test_once_is_counted_by_key():
    for key in ("one", "two"):
        assert len(said(warn_once, "a-slug", "Text.", key=key)) == 1
        assert said(warn_once, "a-slug", "Text.", key=key) == []


def test_what_is_forgotten_is_said_anew():
    said(warn_once, "a-slug", "Text.")
    forget_warnings()
    assert len(said(warn_once, "a-slug", "Text.")) == 1


def test_a_warning_carries_its_slug_and_category():
    with pytest.warns(TorchDeviceWarning) as caught:
        warn_once("a-slug", "Text.")
    assert caught[0].message.slug == "a-slug"
    assert issubclass(TorchDeviceWarning, UserWarning)


@pytest.mark.parametrize("silenced", ["a-slug", "other,a-slug", "a-slug,other"])
def test_a_slug_is_silenced_by_the_environment(monkeypatch, silenced):
    monkeypatch.setenv("TORCHDEVICE_SILENCE", silenced)
    assert said(warn_once, "a-slug", "Text.") == []
    assert len(said(warn_once, "a", "Text.")) == 1


def test_a_warning_can_be_made_an_error_and_silenced_by_pythons_filters():
    with warnings.catch_warnings():
        warnings.simplefilter("error", TorchDeviceWarning)
        with pytest.raises(TorchDeviceWarning, match="a-slug"):
            warn_once("a-slug", "Text.")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", message=r".*\[b-slug\]")
        warn_once("b-slug", "Text.")
    assert caught == []


def test_threads_say_it_once_between_them():
    start = threading.Barrier(8)

    def warn():
        start.wait()
        warn_once("a-slug", "Text.")

    def all_at_once():
        threads = [threading.Thread(target=warn) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert len(said(all_at_once)) == 1


# --- whose line -------------------------------------------------------------------------------


def module(name, source):
    """A module of a given name, as if it lay somewhere else."""
    made = types.ModuleType(name)
    exec(compile(textwrap.dedent(source), f"{name}.py", "exec"), vars(made))
    return made


def calling(name):
    return module(name, "def call(function, *args):\n    return function(*args)\n").call


@pytest.mark.parametrize(
    "library",
    ["torch", "torch.nn.modules.linear", "torchdevice_mode._rules", "contextlib", "functools"],
)
def test_the_users_frame_is_outside_of_torch_and_of_this_package(library):
    frame = calling(library)(lambda: sys._getframe(1))
    assert user_frame(frame) is sys._getframe()


@pytest.mark.parametrize("name", ["torchvision.ops", "transformers", "torchmine", "program"])
def test_other_libraries_are_users(name):
    frame = calling(name)(lambda: sys._getframe(1))
    assert user_frame(frame) is frame


def test_the_innermost_user_is_named():
    frame = calling("program")(calling("torch.nn"), lambda: sys._getframe(1))
    assert user_frame(frame).f_code.co_filename == "program.py"


@pytest.mark.parametrize(
    "file",
    [
        "/env/lib/python3.12/site-packages/torchvision/models/resnet.py",
        "/usr/lib/python3/dist-packages/library.py",
        os.path.join(os.path.dirname(os.__file__), "json", "decoder.py"),
        "<frozen runpy>",
    ],
)
def test_an_installed_package_leads_to_the_program_that_calls_it(file):
    source = compile("def call(function, *args):\n    return function(*args)\n", file, "exec")
    held = {"__name__": "library"}
    exec(source, held)
    frame = held["call"](lambda: sys._getframe(1))
    assert user_frame(frame) is sys._getframe()
    found = calling("program")(held["call"], calling("torch.nn"), lambda: sys._getframe(1))
    assert user_frame(found).f_code.co_filename == "program.py"


@dataclasses.dataclass
class Options:
    frame: object = dataclasses.field(default_factory=lambda: sys._getframe(1))


def test_methods_generated_for_a_data_class_lead_to_the_program_that_calls_them():
    frame = Options().frame
    assert frame.f_code.co_filename == "<string>"
    assert user_frame(frame) is sys._getframe()


def test_code_given_on_the_command_line_is_the_users():
    held = {"__name__": "__main__"}
    exec(compile("import sys\nframe = sys._getframe()", "<string>", "exec"), held)
    assert user_frame(held["frame"]) is held["frame"]


def test_an_installed_package_alone_is_named_itself():
    source = compile("def call():\n    return function()\n", "/lib/site-packages/a.py", "exec")
    held = {"__name__": "library", "function": lambda: found.append(user_frame(sys._getframe(1)))}
    exec(source, held)
    found = []
    thread = threading.Thread(target=held["call"])
    thread.start()
    thread.join()
    assert found[0].f_code.co_filename == "/lib/site-packages/a.py"


def test_where_there_is_no_user_there_is_no_frame():
    assert user_frame(None) is None


def test_a_warning_names_the_users_line():
    inner = calling("torch.nn")
    (warning,) = said(calling("program"), inner, warn_once, "a-slug", "Text.")
    assert warning[1:] == ("program.py", 2)


def test_a_warning_from_torchs_own_thread_names_some_place(monkeypatch):
    monkeypatch.setattr(_log, "user_frame", lambda frame: None)
    (warning,) = said(warn_once, "a-slug", "Text.")
    assert warning[0] == "Text. [a-slug]"

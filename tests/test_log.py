"""The logger's levels, redirections logged once a call site, and warnings at the user's line."""

from __future__ import annotations

import ast
import dataclasses
import logging
import os
import re
import subprocess
import sys
import textwrap
import threading
import types
import warnings
from pathlib import Path

import pytest
import torch

import torchdevice_mode
from torchdevice_mode import _log, _session
from torchdevice_mode._log import (
    SLUGS,
    configure,
    forget_warnings,
    logger,
    user_frame,
    warn_once,
)
from torchdevice_mode.errors import SettingsError, TorchDeviceWarning

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def logger_is_put_back(monkeypatch):
    monkeypatch.delenv("TORCHDEVICE_LOG_LEVEL", raising=False)
    monkeypatch.delenv("TORCHDEVICE_SILENCE", raising=False)
    monkeypatch.setattr(_log, "_level_given", None)
    level, handlers = logger.level, list(logger.handlers)
    logger.setLevel(logging.NOTSET)
    forget_warnings()
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers
    assert logger.propagate


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


def test_a_level_that_the_program_set_holds(monkeypatch):
    logger.setLevel(logging.DEBUG)
    configure()
    assert logger.level == logging.DEBUG
    monkeypatch.setenv("TORCHDEVICE_LOG_LEVEL", "INFO")
    configure()
    assert logger.level == logging.INFO
    logger.setLevel(logging.ERROR)
    configure()
    assert logger.level == logging.ERROR


# --- where lines go ---------------------------------------------------------------------------


def run(tmp_path, text, *flags, **variables):
    """Output of a program of its own; lines that name it begin with `x.py`."""
    (tmp_path / "x.py").write_text(textwrap.dedent(text))
    done = subprocess.run(
        [sys.executable, *flags, "x.py"],
        cwd=tmp_path,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return tuple(text.replace(f"{tmp_path}/", "") for text in (done.stdout, done.stderr))


LOGS = """
import logging, sys
from torchdevice_mode import _log
{before}
_log.configure(); _log.configure()
{after}
if _log.logger.isEnabledFor(logging.INFO):
    _log.log_at(sys._getframe(), "cuda -> cpu")
"""
LINE = "x.py:8: cuda -> cpu"
TO_STDOUT = "logging.basicConfig(stream=sys.stdout, level={}, format='%(name)s %(message)s')"
OWN = "logging.getLogger('torchdevice').addHandler(logging.StreamHandler(sys.stdout))"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("configures", "out", "err"),
    [
        ("", "", f"torchdevice: {LINE}\n"),
        (TO_STDOUT.format("'WARNING'"), f"torchdevice {LINE}\n", ""),
        (TO_STDOUT.format("'INFO'"), f"torchdevice {LINE}\n", ""),
        (OWN, f"{LINE}\n", ""),
        (f"{OWN}; {TO_STDOUT.format(0)}", f"{LINE}\ntorchdevice {LINE}\n", ""),
        ("logging.getLogger().addHandler(logging.NullHandler())", "", ""),
        ("logging.disable()", "", ""),
    ],
)
def test_a_line_is_printed_once_where_the_program_has_it(tmp_path, configures, out, err, when):
    text = LOGS.format(**{"before": "", "after": "", when: configures})
    assert run(tmp_path, text, TORCHDEVICE_LOG_LEVEL="INFO") == (out, err)


def test_at_info_of_the_root_lines_are_not_logged_unasked(tmp_path):
    text = LOGS.format(before=TO_STDOUT.format("'INFO'"), after="")
    assert run(tmp_path, text, TORCHDEVICE_LOG_LEVEL="") == ("", "")


def test_a_closed_stderr_is_no_error_and_the_end_of_a_process_says_nothing(tmp_path):
    text = """
    import atexit, sys, torch, torchdevice
    from torchdevice_mode import _log
    torchdevice.enable("cpu")

    class Late:
        def __del__(self):
            print("late", sys.is_finalizing())
            torch.zeros(1, device="cuda:5")
            _log.warn_once("a-slug", "Text.")

    late = Late()
    late.itself = late
    error, sys.stderr = sys.stderr, open("/dev/null", "w")
    sys.stderr.close()
    torch.zeros(1, device="cuda:6")
    sys.stderr = None
    torch.zeros(1, device="cuda:7")
    sys.stderr = error
    """
    assert run(tmp_path, text, TORCHDEVICE_LOG_LEVEL="INFO") == ("late True\n", "")


def test_a_record_is_the_programs_own_line(messages, caplog):
    with torchdevice_mode.redirect(target="cpu"):
        torch.zeros(1, device="cuda:1")
        line = sys._getframe().f_lineno - 1
    (record,) = caplog.records
    assert (record.pathname, record.lineno, record.funcName) == (
        __file__,
        line,
        "test_a_record_is_the_programs_own_line",
    )


def test_at_debug_the_target_each_decision_and_the_end_are_told(messages, monkeypatch):
    monkeypatch.setenv("TORCHDEVICE_LOG_LEVEL", "DEBUG")
    with torchdevice_mode.redirect(target="cpu", policy="explicit"):
        for _ in range(2):
            torch.device("meta")
    first, *decisions, last = messages()
    assert first.startswith("redirecting to cpu (the user chose it) with Settings(target='cpu', p")
    assert decisions == ["meta -> unchanged (meta tensors hold no data and stay meta)"]
    assert last == "torch is as it was"


# --- redirections, at INFO --------------------------------------------------------------------


@pytest.fixture
def messages(monkeypatch, caplog):
    """What was logged at INFO, as text."""
    monkeypatch.setenv("TORCHDEVICE_LOG_LEVEL", "INFO")
    monkeypatch.setattr(_session, "ledger", torchdevice_mode.ledger().__class__())
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


def test_threads_log_a_call_site_once_between_them(messages):
    def ask():
        torch.zeros(1, device="cuda")

    with torchdevice_mode.redirect(target="cpu"):
        for _ in range(3):
            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()
    line = ask.__code__.co_firstlineno + 1
    assert messages() == [f"{__file__}:{line}: cuda -> cpu (the machine has no cuda)"]


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


@pytest.mark.parametrize("silenced", ["a-slug", "other,a-slug", " a-slug , other"])
def test_a_slug_is_silenced_by_the_environment(monkeypatch, silenced):
    monkeypatch.setenv("TORCHDEVICE_SILENCE", silenced)
    assert said(warn_once, "a-slug", "Text.") == []
    assert len(said(warn_once, "a", "Text.")) == 1


def test_a_slug_that_is_none_is_one_warning(monkeypatch):
    monkeypatch.setenv("TORCHDEVICE_SILENCE", "float64-downcats,rng-state,zzz")
    texts = sorted(text for text, *_ in said(configure))
    assert texts == [
        "There is no message 'float64-downcats' to silence: did you mean 'float64-downcast'? "
        "[unknown-slug]",
        "There is no message 'zzz' to silence: docs/messages.md lists them. [unknown-slug]",
    ]
    assert said(configure) == []


def test_a_slug_that_is_none_ends_no_program_whose_warnings_are_errors(monkeypatch, capsys):
    monkeypatch.setenv("TORCHDEVICE_SILENCE", "zzz")
    forget_warnings()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        configure()
    assert capsys.readouterr().err.startswith("torchdevice: There is no message 'zzz'")


# --- Python's filters -------------------------------------------------------------------------


def test_what_is_made_an_error_is_one_always():
    with warnings.catch_warnings():
        warnings.simplefilter("error", TorchDeviceWarning)
        for _ in range(2):
            with pytest.raises(TorchDeviceWarning, match="a-slug"):
                warn_once("a-slug", "Text.")
    assert len(said(warn_once, "a-slug", "Text.")) == 1


@pytest.mark.parametrize(
    "ignoring",
    [
        {"action": "ignore"},
        {"action": "ignore", "category": TorchDeviceWarning},
        {"action": "ignore", "category": UserWarning, "message": r".*\[a-slug\]$"},
        {"action": "ignore", "module": r"program$"},
        {"action": "ignore", "lineno": 2},
    ],
    ids=str,
)
def test_what_a_filter_ignores_is_said_after_it(ignoring):
    call = calling("program")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings(**ignoring)
        for _ in range(2):
            call(warn_once, "a-slug", "Text.")
    assert caught == []
    assert said(call, warn_once, "a-slug", "Text.") == [("Text. [a-slug]", "program.py", 2)]
    assert said(call, warn_once, "a-slug", "Text.") == []


@pytest.mark.parametrize(
    "other",
    [
        {"category": DeprecationWarning},
        {"message": "Other"},
        {"module": "other"},
        {"lineno": 3},
    ],
    ids=str,
)
def test_a_filter_of_others_ignores_nothing(other):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        warnings.filterwarnings("ignore", **other)
        calling("program")(warn_once, "a-slug", "Text.")
    assert len(caught) == 1


@pytest.mark.parametrize("action", ["once", "default", "module", "always"])
def test_however_a_filter_counts_it_is_said_once(action):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(action)
        for _ in range(3):
            calling("program")(warn_once, "a-slug", "Text.")
    assert len(caught) == 1


WARNS = """
import warnings
from torchdevice_mode import _log
_log.configure()
for number in range(2):
    try:
        _log.warn_once("a-slug", "Text.")
    except _log.TorchDeviceWarning:
        print("raised")
"""
SAID = 'x.py:7: TorchDeviceWarning: Text. [a-slug]\n  _log.warn_once("a-slug", "Text.")\n'


@pytest.mark.parametrize("as_variable", [False, True], ids=["option", "variable"])
@pytest.mark.parametrize("found_late", [False, True], ids=["on the path", "installed"])
@pytest.mark.parametrize(
    ("option", "out", "err"),
    [
        ("", "", SAID),
        ("error::torchdevice.TorchDeviceWarning", "raised\nraised\n", ""),
        ("ignore::torchdevice_mode.TorchDeviceWarning", "", ""),
        ("error::torchdevice.Nonsense", "", SAID),
    ],
)
def test_pythons_own_options_hold(tmp_path, option, out, err, found_late, as_variable):
    (tmp_path / "late").mkdir()
    flags = ["-W", option] if option and not as_variable else []
    variables = {"PYTHONWARNINGS": option if as_variable else ""}
    text = WARNS
    if found_late:
        # As where site-packages has it, which is on the path only after Python read its options.
        text = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}){text}"
        flags, variables["PYTHONPATH"] = ["-S", *flags], ""
    printed, complained = run(tmp_path, text, *flags, **variables)
    assert printed == out
    refusals = [line for line in complained.splitlines(True) if "option ignored" in line]
    assert complained.replace("".join(refusals), "") == err


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


@pytest.mark.parametrize(
    "file", [*_log._OWN_FILES, str(Path(sys.executable).with_name("torchdevice"))]
)
def test_the_command_itself_is_no_user(file):
    name = f"{file}__main__.py" if file.endswith(os.sep) else file
    held = {"__name__": "__main__", "function": lambda: found.append(user_frame(sys._getframe(1)))}
    exec(compile("def call():\n    return function()\n", name, "exec"), held)
    found = []
    thread = threading.Thread(target=held["call"])
    thread.start()
    thread.join()
    assert found == [None]


def test_where_there_is_no_user_there_is_no_frame():
    assert user_frame(None) is None


def test_a_warning_names_the_users_line():
    inner = calling("torch.nn")
    (warning,) = said(calling("program"), inner, warn_once, "a-slug", "Text.")
    assert warning[1:] == ("program.py", 2)


def test_a_warning_from_torchs_own_thread_names_some_place(monkeypatch):
    monkeypatch.setattr(_log, "user_frame", lambda frame: None)
    assert said(warn_once, "a-slug", "Text.") == [("Text. [a-slug]", "torchdevice", 1)]


# --- pages ------------------------------------------------------------------------------------


def slugs_in_sources():
    """The first argument of each call of what warns, which has to be text."""
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "func", None)
            name = getattr(name, "attr", getattr(name, "id", ""))
            if name in ("warn_once", "tell") and node.args and path.name != "_log.py":
                assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}"
                yield node.args[0].value


def test_every_warning_has_a_section_and_every_section_a_warning():
    sections = re.findall(r"^## ([a-z0-9-]+)$", (ROOT / "docs/messages.md").read_text(), re.M)
    assert sorted(sections) == sorted(SLUGS)
    assert {*slugs_in_sources(), "unknown-slug"} == SLUGS

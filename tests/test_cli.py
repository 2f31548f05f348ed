"""The command line: where the program begins, and what a wrong one is told."""

from __future__ import annotations

import subprocess
import sys

import pytest

import torchdevice_mode
from torchdevice_mode._run import Program
from torchdevice_mode._settings import SETTINGS
from torchdevice_mode.cli import COMMANDS, _split, main


@pytest.fixture(autouse=True)
def process(monkeypatch):
    """`run` makes the process the program's; give it back."""
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    for row in SETTINGS:
        monkeypatch.delenv(row.variable, raising=False)


@pytest.mark.parametrize("command", ["run", "info"])
def test_every_setting_is_an_option(command):
    options = {option.name for option in COMMANDS[command].options}
    assert {row.flag for row in SETTINGS} <= options


@pytest.mark.parametrize(
    ("words", "options", "program"),
    [
        ("x.py", "", Program("script", "x.py")),
        ("x.py a --quiet", "", Program("script", "x.py", ("a", "--quiet"))),
        ("--quiet x.py", "--quiet", Program("script", "x.py")),
        ("--target cpu x.py", "--target cpu", Program("script", "x.py")),
        ("--target=cpu x.py", "--target=cpu", Program("script", "x.py")),
        ("--target -m x.py", "--target -m", Program("script", "x.py")),
        ("-m pkg -c a", "", Program("module", "pkg", ("-c", "a"))),
        ("-mpkg a", "", Program("module", "pkg", ("a",))),
        ("--quiet -c 1 -m", "--quiet", Program("code", "1", ("-m",))),
        ("-c1", "", Program("code", "1")),
        ("- a -", "", Program("stdin", "-", ("a", "-"))),
        ("-- --x.py a", "", Program("script", "--x.py", ("a",))),
        ("x.py -- a", "", Program("script", "x.py", ("--", "a"))),
        ("", "", None),
        ("--quiet", "--quiet", None),
        ("--target", "--target", None),
        ("-m", "", None),
        ("--", "", None),
        ("--unknown x.py", "--unknown", Program("script", "x.py")),
    ],
)
def test_program_begins_at_the_first_word_that_is_no_option(words, options, program):
    command = COMMANDS["run"]
    assert _split(["run", *words.split()], command) == (["run", *options.split()], program)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["walk"], "invalid choice: 'walk'"),
        (["run"], "torchdevice run: error: a program is missing"),
        (["run", "--quiet"], "a program is missing: give script.py, -m module, -c code or -"),
        (["run", "-m"], "a program is missing"),
        (["run", "-u", "x.py"], "torchdevice run: error: unrecognized arguments: -u"),
        (["run", "--quie", "x.py"], "unrecognized arguments: --quie"),
        (["run", "--target"], "argument --target: expected one argument"),
        (["info", "x.py"], "torchdevice info: error: unrecognized arguments: x.py"),
    ],
    ids=lambda value: " ".join(value) if type(value) is list else "",
)
def test_usage_errors_exit_2(words, complaint, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("usage: torchdevice") and complaint in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["run", "-h"], ["info", "-h"]])
def test_help_shows_usage(words, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith("usage: torchdevice")


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"torchdevice {torchdevice_mode.__version__}\n"


@pytest.mark.parametrize("command", ["run", "info"])
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--target", "cuda:x"),
        ("--target", "cpu:-2"),
        ("--target", "meta"),
        ("--policy", "gentle"),
        ("--override", "nothing"),
        ("--dispatch", "never"),
        ("--float64", "double"),
        ("--simulate", "toaster"),
        ("--log-level", "loud"),
    ],
)
def test_a_bad_setting_is_one_sentence_and_nothing_runs(command, option, value, capsys):
    program = ["-c", "print('started')"] if command == "run" else []
    assert main([command, option, value, *program]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("torchdevice: error: ") and captured.err.count("\n") == 1
    assert repr(value) in captured.err


@pytest.mark.parametrize(
    "variable", ["TORCHDEVICE_POLICY", "TORCHDEVICE_TARGET", "TORCHDEVICE_LOG_LEVEL"]
)
def test_a_bad_variable_is_named(variable, monkeypatch, capsys):
    monkeypatch.setenv(variable, "bad:value")
    assert main(["run", "-c", "print('started')"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{variable}='bad:value'" in captured.err


def test_a_missing_program_is_told_as_python_tells_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "missing.py", "a"]) == 2
    path = tmp_path / "missing.py"
    sentence = f"can't open file '{path}': [Errno 2] No such file or directory"
    assert capsys.readouterr().err == f"torchdevice: {sentence}\n"
    assert not torchdevice_mode.is_active()


@pytest.mark.parametrize("module", ["torchdevice", "torchdevice_mode"])
def test_modules_are_the_command(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "run", "--quiet", "-c", "import sys; sys.exit(6)"]
    )
    assert done.returncode == 6


def test_a_command_under_one_that_simulates_is_told_by_a_variable(monkeypatch, capsys):
    monkeypatch.setenv("TORCHDEVICE_SIMULATE", "tpu")
    assert main(["run", "-c", "1"]) == 2
    assert "TORCHDEVICE_SIMULATE='tpu'" in capsys.readouterr().err

"""The command line: where the program begins, and what a wrong one is told."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import torchdevice_mode
from torchdevice_mode import TorchDeviceWarning
from torchdevice_mode._log import forget_warnings
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


LISTED = ", ".join(COMMANDS)
PROGRAMS = "give script.py, -m module, -c code or -"
WRONG = {
    "": f"a command is missing: give {LISTED}, or --help.",
    "walk": f"'walk' is not a command: give {LISTED}.",
    "runn x.py": "'runn' is not a command: did you mean run?",
    "train.py --epochs 3": "'train.py' is not a command: did you mean torchdevice run train.py?",
    "./train": "'./train' is not a command: did you mean torchdevice run ./train?",
    "help": "'help' is not a command: did you mean --help?",
    "--target cpu run x.py": (
        f"--target stands before the command: begin with {LISTED}, or --help."
    ),
    "run": f"a program is missing: {PROGRAMS}.",
    "run --quiet": f"a program is missing: {PROGRAMS}.",
    "run --target cuda": f"a program is missing: {PROGRAMS}.",
    "run --target train.py": (
        f"a program is missing: {PROGRAMS} ('train.py' was taken for the value of --target)."
    ),
    "run -m": "-m needs a module's name after it.",
    "run --quiet -c": "-c needs code after it.",
    "run --target": "--target needs a value: see torchdevice run --help.",
    "run --quiet=1 x.py": "--quiet takes no value: see torchdevice run --help.",
    "run --quie x.py": "run has no option --quie: did you mean --quiet?",
    "run --no-target=cpu x.py": "run has no option --no-target: did you mean --target?",
    "run -u x.py": "run has no option -u: options of the program come after its name.",
    "run --learning 3 x.py": (
        "run has no option --learning: options of the program come after its name."
    ),
    "info x.py": "info takes no 'x.py': see torchdevice info --help.",
    "info --jsn": "info has no option --jsn: did you mean --json?",
    "gap -q": "gap has no option -q: see torchdevice gap --help.",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_call_is_one_sentence_and_exit_code_2(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train").touch()
    with pytest.raises(SystemExit) as exit_:
        main(words.split())
    assert exit_.value.code == 2
    assert capsys.readouterr() == ("", f"torchdevice: error: {WRONG[words]}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_refuses_in_one_sentence_what_it_does_not_know(name, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([name, "--nonsense-of-mine"])
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("torchdevice: error: ") and line.endswith((".", "?"))


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["run", "-h"], ["info", "-h"]])
def test_help_shows_usage(words, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith("usage: torchdevice")


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version(option, capsys):
    with pytest.raises(SystemExit):
        main([option])
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a target here")
@pytest.mark.parametrize("command", [["info"], ["run", "-c", "print('started')"]])
def test_a_target_that_is_not_here_is_told_with_its_place(command, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[tool.torchdevice]\ntarget = "cuda"\n')
    places = {"pyproject.toml:2: target = 'cuda'": command}
    places["--target 'cuda:1'"] = [command[0], "--target", "cuda:1", *command[1:]]
    for place, words in places.items():
        assert main(words) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1
        assert said.err.startswith(
            f"torchdevice: error: {place} is not on this machine, which has "
        )
    monkeypatch.setenv("TORCHDEVICE_TARGET", "xpu")
    assert main(command) == 2
    assert "error: TORCHDEVICE_TARGET='xpu' is not on this machine" in capsys.readouterr().err


def test_an_operator_to_verify_that_is_none_is_told_before_the_program_starts(capsys):
    assert main(["run", "--verify", "matmull", "-c", "print('started')"]) == 2
    sentence = "--verify 'matmull' is no operator of this torch: did you mean 'matmul'?"
    assert capsys.readouterr() == ("", f"torchdevice: error: {sentence}\n")


def test_a_variable_with_a_slip_is_one_warning(monkeypatch):
    forget_warnings()
    monkeypatch.setenv("TORCHDEVICE_TAGRET", "cpu")
    monkeypatch.setenv("TORCHDEVICE_TEST_SOMETHING", "1")
    with pytest.warns(TorchDeviceWarning) as caught:
        assert main(["info", "--json"]) == 0
    texts = [str(warning.message) for warning in caught]
    assert texts == [
        "TORCHDEVICE_TAGRET is no variable of torchdevice: did you mean TORCHDEVICE_TARGET? "
        "[unknown-variable]"
    ]


def test_a_current_folder_that_was_deleted_is_as_for_python(tmp_path):
    """A program that does not need it runs."""
    (tmp_path / "x.py").write_text("print('ran')")
    (tmp_path / "gone").mkdir()
    code = (
        "import os, sys; os.rmdir(os.getcwd()); from torchdevice_mode.cli import main\n"
        "sys.exit(main(['run', '--quiet', *sys.argv[1:]]))"
    )
    for words, out, result in [(["../x.py"], "", 2), ([tmp_path / "x.py"], "ran\n", 0)]:
        (tmp_path / "gone").mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=tmp_path / "gone",
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.stdout, done.returncode) == (out, result), done.stderr
        assert "Traceback" not in done.stderr

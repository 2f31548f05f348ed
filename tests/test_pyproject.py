"""Settings in `pyproject.toml`: which file holds, which line a bad value stands on."""

from __future__ import annotations

import json
import os
import sys

import pytest

from torchdevice_mode import _pyproject
from torchdevice_mode._command_settings import choose
from torchdevice_mode._pyproject import find
from torchdevice_mode._run import Program, folder_of
from torchdevice_mode._settings import SETTINGS
from torchdevice_mode.cli import main
from torchdevice_mode.errors import SettingsError

if sys.version_info < (3, 11):
    pytest.importorskip("tomli")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A repository of its own, in which this process is; no setting comes from elsewhere."""
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    for row in SETTINGS:
        monkeypatch.delenv(row.variable, raising=False)
    return tmp_path


def write(folder, text, name="pyproject.toml"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def found(folder, **options):
    return {
        name: (one.value, one.origin)
        for name, one in choose(options, os.environ, folder).found.items()
    }


# --- values -----------------------------------------------------------------------------------

ALL = """\
[project]
name = "mine"

[tool.torchdevice]  # how we run
target = "cuda:1"
policy = "explicit"
override = "everything"
dispatch = "always"
float64 = "cpu"
verify = 0.01
verify-raise = true
rng = "cpu"
allow-untested = true
simulate = "mps"
log-level = "info"
silence = ["fallback-operator", "rng-state"]
profile = true
report = ["/report.html"]
quiet = true
substitutes = ["flash_attn"]

[tool.other]
target = 3
"""


def test_every_setting_can_be_a_key(folder):
    write(folder, ALL)
    chosen = found(folder)
    assert {name: value for name, (value, _) in chosen.items()} == {
        "target": "cuda:1",
        "policy": "explicit",
        "override": "everything",
        "dispatch": "always",
        "float64": "cpu",
        "verify": "0.01",
        "verify_raise": True,
        "rng": "cpu",
        "allow_untested": True,
        "simulate": "mps",
        "log_level": "INFO",
        "silence": ("fallback-operator", "rng-state"),
        "profile": True,
        "report": ("/report.html",),
        "quiet": True,
        "substitutes": ("flash_attn",),
    }
    assert set(chosen) == {row.name for row in SETTINGS}
    assert chosen["target"][1] == "pyproject.toml:5"
    assert chosen["quiet"][1] == "pyproject.toml:19"


def test_options_win_over_variables_and_those_over_the_file(folder, monkeypatch):
    write(folder, '[tool.torchdevice]\nrng = "cpu"\nquiet = true\nfloat64 = "cpu"\n')
    monkeypatch.setenv("TORCHDEVICE_RNG", "target")
    monkeypatch.setenv("TORCHDEVICE_QUIET", "0")
    chosen = found(folder, quiet=True)
    assert chosen["quiet"] == (True, "option --quiet")
    assert chosen["rng"] == ("target", "environment variable TORCHDEVICE_RNG")
    assert chosen["float64"] == ("cpu", "pyproject.toml:4")
    assert chosen["policy"] == ("force", "default")


@pytest.mark.parametrize("text", ['"a/b.html"', '["a/b.html"]', '"a/b.html,/c.txt"'])
def test_files_lie_beside_the_file_that_names_them(folder, text, monkeypatch):
    write(folder, f"[tool.torchdevice]\nreport = {text}\n")
    monkeypatch.chdir("/")
    (folder / "a").mkdir()
    (files, _) = found(folder / "a")["report"]
    assert files[0] == str(folder / "a" / "b.html")
    assert files[1:] == (("/c.txt",) if "," in text else ())


def test_a_key_may_have_an_underscore(folder):
    write(folder, "[tool.torchdevice]\nverify_raise = true\n")
    assert found(folder)["verify_raise"] == (True, "pyproject.toml:2")


# --- which file -------------------------------------------------------------------------------

CPU = '[tool.torchdevice]\nrng = "cpu"\n'
TARGET = '[tool.torchdevice]\nrng = "target"\n'


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({"": CPU}, "pyproject.toml:2"),
        ({"": CPU, "a": TARGET}, "a/pyproject.toml:2"),
        ({"": CPU, "a/b": TARGET}, "a/b/pyproject.toml:2"),
        # Without the table, a file is another tool's.
        ({"": CPU, "a/b": "[project]\nname = 'torchdevice'\n"}, "pyproject.toml:2"),
        ({"": CPU, "a/b": "[tool.torchdevice]\n"}, "default"),
        ({"": CPU, "a/b/c": TARGET}, "pyproject.toml:2"),
        ({}, "default"),
    ],
)
def test_the_nearest_table_above_the_program_counts(folder, files, line):
    for name, text in files.items():
        write(folder / name, text)
    (folder / "a" / "b").mkdir(parents=True, exist_ok=True)
    assert found(folder / "a" / "b")["rng"][1] == line


@pytest.mark.parametrize("root", [".git", ".hg"])
def test_nothing_above_the_repository_counts(folder, root):
    write(folder, CPU)
    inner = folder / "inner" / "deep"
    inner.mkdir(parents=True)
    (folder / "inner" / root).mkdir()
    assert found(inner)["rng"] == ("target", "default")
    write(folder / "inner", CPU)
    assert found(inner)["rng"][1] == "inner/pyproject.toml:2"


def test_a_script_has_its_own_folder_and_others_the_current_one(folder, tmp_path):
    there = folder / "there"
    write(there, "", "train.py")
    write(there / "app", "", "__main__.py")
    os.symlink(there / "train.py", folder / "link.py")
    assert folder_of(Program("script", "there/train.py")) == there
    assert folder_of(Program("script", "link.py")) == there
    assert folder_of(Program("script", "there/app")) == there / "app"
    assert folder_of(Program("module", "there.train")) == folder
    assert folder_of(Program("code", "1")) == folder
    assert folder_of(Program("stdin", "-")) == folder
    assert folder_of(None) == folder


def test_a_current_folder_that_was_deleted_has_no_file(folder, monkeypatch):
    gone = folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert folder_of(None) is None
    assert found(None)["rng"] == ("target", "default")


# --- errors -----------------------------------------------------------------------------------

WRONG = {
    '[tool.torchdevice]\n\n# Where.\n"policy" = "strict"\n': (
        "pyproject.toml:4: policy = 'strict' is not a value that it can have: give 'force' or "
        "'explicit'."
    ),
    '[tool.other]\npolicy = 1\n[ tool . "torchdevice" ]\n policy=["force"]\n': (
        "pyproject.toml:4: policy = ['force'] is not a value that it can have: give 'force' or "
        "'explicit'."
    ),
    '[tool]\ntorchdevice = {policy = "strict"}\n': (
        "pyproject.toml: policy = 'strict' is not a value that it can have: give 'force' or "
        "'explicit'."
    ),
    '[tool.torchdevice]\ntarget = "cpu"\nlog_levl = "INFO"\n': (
        "pyproject.toml:3: 'log_levl' is not a setting: did you mean 'log-level'?"
    ),
    "[tool.torchdevice]\nzzz = 1\n": "pyproject.toml:2: 'zzz' is not a setting: give target, ",
    "[tool.torchdevice.program]\na = 1\n": "pyproject.toml: 'program' is not a setting: give ",
    "[tool.torchdevice]\nverify-raise = true\nverify_raise = false\n": (
        "pyproject.toml:3: 'verify_raise' is given twice, with a hyphen and with an underscore: "
        "leave one out."
    ),
    '[tool.torchdevice]\nreport = "report.pdf"\n': (
        "pyproject.toml:2: report = 'report.pdf' names no form of report: give a file that ends in "
    ),
    "[tool]\ntorchdevice = 3\n": "pyproject.toml: torchdevice = 3 is not a table of settings",
    "[tool.torchdevice\npolicy = 1\n": "pyproject.toml is not TOML: ",
    "[tool.torchdevice]\npolicy =\n": "pyproject.toml is not TOML: Invalid value (at line 2, co",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_one_sentence_with_its_place(folder, text):
    write(folder, text)
    with pytest.raises(SettingsError) as caught:
        found(folder)
    said = str(caught.value)
    assert said.startswith(WRONG[text])
    assert "\n" not in said and said[-1] in ".?"


def test_a_file_that_is_not_utf8_is_told_with_its_line(folder):
    (folder / "pyproject.toml").write_bytes(b'[tool.torchdevice]\n# caf\xe9\nrng = "cpu"\n')
    with pytest.raises(SettingsError, match=r"^pyproject.toml:2 is not UTF-8"):
        found(folder)


def test_a_byte_order_mark_is_no_part_of_a_file(folder):
    (folder / "pyproject.toml").write_bytes(b'\xef\xbb\xbf[tool.torchdevice]\r\nrng = "cpu"\r\n')
    assert found(folder)["rng"] == ("cpu", "pyproject.toml:2")


@pytest.mark.parametrize("content", [b"[project\n", b"name = '\xe9'\n"])
def test_a_file_without_a_word_of_torchdevice_need_not_be_right(folder, content):
    (folder / "pyproject.toml").write_bytes(content)
    assert find(folder) is None


def test_a_path_that_is_not_below_the_current_folder_is_whole(folder, monkeypatch):
    write(folder, CPU)
    (folder / "a").mkdir()
    monkeypatch.chdir(folder / "a")
    assert found(folder / "a")["rng"] == ("cpu", f"{folder}/pyproject.toml:2")


@pytest.mark.parametrize("text", [CPU, "[tool . 'torchdevice' ]\n"])
def test_where_nothing_reads_toml_a_table_is_an_error(folder, monkeypatch, text):
    monkeypatch.setattr(_pyproject, "_parser", lambda: None)
    write(folder, "dependencies = ['torchdevice-mode']\n")
    assert find(folder) is None
    write(folder, text)
    with pytest.raises(SettingsError, match=r"^pyproject.toml has settings .*: install tomli, or"):
        find(folder)


# --- commands ---------------------------------------------------------------------------------


def test_info_tells_the_line(folder, capsys):
    write(folder, '[tool.torchdevice]\ntarget = "cpu"\n')
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["settings"]["target"] == {"value": "cpu", "origin": "pyproject.toml:2"}
    assert facts["target"]["device"] == "cpu"


@pytest.mark.parametrize("words", [["info"], ["run", "there/x.py"], ["run", "-c", "print('ran')"]])
def test_a_bad_file_ends_the_command_before_anything_runs(folder, capsys, words):
    write(folder, '[tool.torchdevice]\ntraget = "cpu"\n')
    write(folder / "there", "print('ran')", "x.py")
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    sentence = "pyproject.toml:2: 'traget' is not a setting: did you mean 'target'?"
    assert captured.err == f"torchdevice: error: {sentence}\n"

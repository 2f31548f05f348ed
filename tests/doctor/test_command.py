"""`torchdevice doctor`: options, output, exit codes, and files that cannot be read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchdevice_mode import cli
from torchdevice_mode._doctor import _command

GOOD = "x.to('cuda')\n"
BAD = "import flash_attn\n"
MIDDLING = "import bitsandbytes\n"


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Writes a program into an empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes, name: str = "program.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("text", "options", "code"),
    [
        (GOOD, [], 0),
        (MIDDLING, [], 0),
        (MIDDLING, ["--strict"], 1),
        (BAD, [], 1),
        (BAD, ["--ignore", "cuda-package"], 0),
        (BAD, ["--ignore", "device,cuda"], 0),
        (BAD, ["--select", "device-string"], 0),
        (BAD, ["--target", "cuda"], 0),
        (BAD, ["--exclude", "*.txt"], 1),
        (BAD, ["--level", "error"], 1),
    ],
)
def test_the_exit_code_tells_whether_it_would_run(program, text, options, code, capsys):
    program(text)
    assert cli.main(["doctor", ".", *options]) == code


def test_the_text_shows_lines_and_ends_with_the_verdict(program, capsys):
    program(GOOD + BAD)
    assert cli.main(["doctor", "program.py"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "program.py",
        "     1  x.to('cuda')",
        "        note    'cuda' means mps:0 here: the machine has no cuda.  [device-string]",
    ]
    assert lines[-1] == (
        "verdict: will fail at program.py:2, because flash_attn is for CUDA only, as its kernels "
        "are compiled for NVIDIA's devices."
    )


def test_the_level_hides_what_matters_less(program, capsys):
    program(GOOD + BAD)
    cli.main(["doctor", "program.py", "--level", "error"])
    out = capsys.readouterr().out
    assert "[cuda-package]" in out and "[device-string]" not in out
    assert "1 file: 1 error, 0 warnings, 1 note" in out


def test_json_holds_what_was_found(program, capsys):
    program(BAD)
    cli.main(["doctor", "program.py", "--format", "json"])
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1 and document["verdict"] == "will fail"
    assert document["counts"] == {"note": 0, "warning": 0, "error": 1}
    assert document["programs"] == [
        {"path": "program.py", "verdict": "will fail", "place": "program.py:1"}
    ]
    (finding,) = document["findings"]
    assert (finding["rule"], finding["severity"], finding["line"]) == ("cuda-package", "error", 1)


def test_output_goes_to_a_file(program, capsys, tmp_path):
    program(BAD)
    assert cli.main(["doctor", "program.py", "--format", "sarif", "--output", "out.sarif"]) == 1
    assert capsys.readouterr().out == ""
    assert json.loads((tmp_path / "out.sarif").read_text())["version"] == "2.1.0"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "PATH"),
        (["nowhere.py"], "there is no file or folder 'nowhere.py': give one to read."),
        (["empty"], "there is no Python file in 'empty'"),
        ([".", "--select", "nonsense"], "no rule begins with 'nonsense'"),
        ([".", "--target", "tpu"], "'tpu'"),
        ([".", "--output", "no/such/folder"], "cannot write 'no/such/folder'"),
    ],
)
def test_wrong_usage_is_one_sentence_and_code_2(program, arguments, said, capsys, tmp_path):
    program(GOOD)
    (tmp_path / "empty").mkdir()
    try:
        code = cli.main(["doctor", *arguments])
    except SystemExit as error:
        code = error.code
    captured = capsys.readouterr()
    assert code == 2
    assert said in captured.err and captured.err.splitlines()[-1].startswith("torchdevice")


def test_torch_is_imported_only_for_names_of_it(program):
    program(BAD + GOOD)
    program("import torch\ntorch.cuda.synchronize()\n", "other.py")
    code = "import sys; from torchdevice_mode import cli\n"
    code += "cli.main(['doctor', 'program.py'])\n"
    code += "assert 'torch' not in sys.modules\n"
    code += "try: cli.main(['doctor', 'nowhere.py'])\n"
    code += "except SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules\n"
    code += "cli.main(['doctor', 'other.py'])\n"
    code += "assert 'torch' in sys.modules\n"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_without_torch_the_rest_is_said(program, monkeypatch, capsys):
    program("import torch\ntorch.cuda.synchronize()\nimport flash_attn\n")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert cli.main(["doctor", "program.py"]) == 1
    captured = capsys.readouterr()
    assert "[torch-name]" in captured.out and "[cuda-package]" in captured.out
    assert captured.err.count("\n") == 1 and "torch is not installed" in captured.err


FILES = {
    "python2.py": (b"print 'old'\n", "unparsable-file"),
    "latin.py": (b"x = '\xe9'\n", "unreadable-file"),
    "cookie.py": (b"# coding: no-such\n", "unreadable-file"),
    "null.py": (b"x = 1\0\n", "unparsable-file"),
    "large.py": (b"x = 1\n" * 1_000_000, "unreadable-file"),
    "deep.py": (b"x = " + b"(" * 3000 + b")" * 3000, "unparsable-file"),
    "long.py": (b"x = " + b"+".join([b"1"] * 20_000), "unparsable-file"),
    "broken.ipynb": (b"{", "unreadable-file"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_cannot_be_read_is_told_and_passed_over(name, program, capsys):
    text, rule = FILES[name]
    program(text, name)
    program(BAD, "after.py")
    assert cli.main(["doctor", ".", "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    rules = {finding["path"]: finding["rule"] for finding in found}
    assert rules.pop("after.py") == "cuda-package"
    # A release of Python may read what another finds too deep.
    assert rules in ({name: rule}, {}) if name in ("deep.py", "long.py") else rules == {name: rule}


@pytest.mark.parametrize(
    "text", [b"\xef\xbb\xbfx.to('cuda')\n", b"# coding: latin-1\nx = '\xe9'\nx.to('cuda')\n"]
)
def test_a_file_is_read_in_the_encoding_that_it_says(text, program, capsys):
    program(text)
    cli.main(["doctor", ".", "--format", "json"])
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert finding["rule"] == "device-string"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="rights do not hold for root")
def test_a_file_without_rights_is_told(program, capsys):
    program(GOOD).chmod(0)
    assert cli.main(["doctor", "program.py"]) == 0
    assert "Permission denied" in capsys.readouterr().out


def test_a_closed_terminal_ends_it_without_a_traceback(program):
    program(GOOD * 20_000)
    words = [sys.executable, "-m", "torchdevice_mode", "doctor", "program.py"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(10)
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    process.wait()
    assert b"Traceback" not in errors


def test_a_bar_is_shown_on_a_terminal_only(program, capsys):
    files = [Path(f"{number}.py") for number in range(100)]
    assert _command._progress(files) is files
    assert list(_command._counted(files)) == files
    assert "reading 20 of 100" in capsys.readouterr().err

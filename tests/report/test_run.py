"""Reports of programs that are run as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

import torchdevice_mode as torchdevice

from .conftest import SOURCE

PROGRAM = """\
import torch

def work():
    return torch.zeros(3, device="cuda")

for _ in range(5):
    work()
"""

pytestmark = pytest.mark.off_cuda


def entries_of(path, kind="redirection"):
    told = json.loads(path.read_text())
    return {e["line"]: e for e in told["entries"] if e["kind"] == kind}


def test_a_run_writes_its_reports_and_names_them(run_program, tmp_path):
    options = ["--report", "a.html", "--report=b.json", "--report", "c.txt"]
    ended = run_program(PROGRAM, *options, variables={"TORCHDEVICE_REPORT": "variable.json"})
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.splitlines()[-3:] == [
        f"torchdevice: report written to {name}" for name in ("a.html", "b.json", "c.txt")
    ]
    entry = entries_of(tmp_path / "b.json")[4]
    assert (entry["count"], entry["function"]) == (5, "work")
    assert entry["source"] == 'return torch.zeros(3, device="cuda")'
    assert "program.py" in (tmp_path / "a.html").read_text()
    # The command line goes before the environment.
    assert [file.name for file in tmp_path.glob("*.json")] == ["b.json"]


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("import atexit, sys; atexit.register(work); sys.exit(3)", 3),
        ("raise ValueError('no')", 1),
    ],
)
def test_a_report_is_written_however_the_program_ends(run_program, tmp_path, ending, code):
    ended = run_program(f"{PROGRAM}\n{ending}\n", "--report", "a.json")
    assert ended.returncode == code
    assert entries_of(tmp_path / "a.json")[4]["count"] == 5 + ("atexit" in ending)


@pytest.mark.parametrize("name", ["a.pdf", "nowhere/a.html", "."])
def test_a_report_that_cannot_be_written_is_told_before_the_program_starts(run_program, name):
    ended = run_program("print('started')", "--report", name)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"torchdevice: error: --report {name!r} ")
    assert ended.stderr.count("\n") == 1


def test_reports_that_fail_at_the_end_are_a_sentence_each_and_leave_the_exit_code(
    run_program, tmp_path
):
    (tmp_path / "a.html").symlink_to("/dev/full")
    (tmp_path / "out").mkdir()
    removes = f"{PROGRAM}import os; os.rmdir('out'); raise SystemExit(7)"
    ended = run_program(removes, "--report", "a.html", "--report", "out/b.html")
    assert ended.returncode == 7
    assert "a.html' cannot be written (No space left on device)" in ended.stderr
    assert "there is no folder" in ended.stderr
    assert "report written" not in ended.stderr


@pytest.mark.parametrize("way", ["option", "variable"])
def test_a_program_may_change_its_folder(run_program, tmp_path, way):
    options = ["--report", "a.json"] if way == "option" else []
    variables = {"TORCHDEVICE_REPORT": "a.json"} if way == "variable" else {}
    ended = run_program(f"{PROGRAM}import os; os.chdir('/')", *options, variables=variables)
    assert "report written to a.json" in ended.stderr
    assert entries_of(tmp_path / "a.json")[4]["count"] == 5
    assert entries_of(tmp_path / "a.json")[4]["source"]


CHILD = """\
import subprocess, sys
for _ in range(2):
    subprocess.run([sys.executable, "child.py"], check=True)
"""


def test_only_the_outermost_process_writes_and_it_tells_of_all(run_program, tmp_path):
    (tmp_path / "child.py").write_text(PROGRAM)
    environment = {"TORCHDEVICE_REPORT": "a.json", "ACTIVATE_TORCH_DEVICE": None}
    hook = "import torchdevice_mode._startup as s; s.begin()"
    child = CHILD.replace(
        '"child.py"', f'"-c", "{hook}; import runpy; runpy.run_path(\'child.py\')"'
    )
    ended = run_program(child, variables=environment)
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "a.json").read_text())
    assert [e["count"] for e in found["entries"] if e["line"] == 4] == [10]
    assert found["target"]["device"] == "cpu"


def test_enabling_in_code_writes_what_the_environment_names(tmp_path):
    source = f"import torchdevice_mode\ntorchdevice_mode.enable(target='cpu')\n{PROGRAM}"
    (tmp_path / "program.py").write_text(source)
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "TORCHDEVICE_REPORT": "a.json"}
    subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, env=environment, check=True, timeout=120
    )
    assert entries_of(tmp_path / "a.json")[6]["count"] == 5


def test_a_program_without_torch_has_an_empty_report(run_program, tmp_path):
    run_program("print(1)", "--report", "a.json", "--report", "a.html")
    told = json.loads((tmp_path / "a.json").read_text())
    assert told["entries"] == [] and told["target"]["device"] is None
    assert told["versions"]["torch"] == ""
    assert "did not import torch" in (tmp_path / "a.html").read_text()


@pytest.mark.parametrize("way", ["code", "stdin"])
def test_a_program_without_a_file_has_a_report_and_a_quiet_run_prints_nothing(tmp_path, way):
    command = [sys.executable, "-m", "torchdevice", "run", "--target", "cpu", "--quiet"]
    command += ["--report", "a.html", *(["-c", PROGRAM] if way == "code" else ["-"])]
    ended = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        input=PROGRAM,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert "&lt;string&gt;:4" in (tmp_path / "a.html").read_text().replace("stdin", "string")


def test_an_interrupt_from_the_keyboard_leaves_a_report(tmp_path):
    (tmp_path / "program.py").write_text(
        PROGRAM + "print('on', flush=True)\nimport time\ntime.sleep(60)"
    )
    command = [sys.executable, "-m", "torchdevice", "run", "--target", "cpu"]
    running = subprocess.Popen(
        [*command, "--report", "a.json", "program.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert running.stdout.readline() == b"on\n"
    running.send_signal(signal.SIGINT)
    assert running.wait(60) in (1, -signal.SIGINT)  # 1 where Python was given -m
    assert entries_of(tmp_path / "a.json")


# --- in this process ------------------------------------------------------------------------------


def line_of(report, text):
    return [e for e in report.events if e.file == __file__ and text in e.source]


def test_a_report_can_be_asked_for_at_any_time():
    with torchdevice.redirect():
        torch.zeros(2, device="cuda")  # inside
        inside = torchdevice.report()
    after = torchdevice.report()
    for report in (inside, after):
        assert isinstance(report, torchdevice.Report)
        assert line_of(report, "# inside")
        assert report.target == str(torchdevice.explain("cuda").device)
        assert report.versions["torch"] == torch.__version__


def test_many_calls_at_one_line_are_one_entry():
    with torchdevice.redirect():
        for _ in range(100_000):
            torch.device("cuda")  # often
    (entry,) = line_of(torchdevice.report(), "# often")
    assert entry.count == 100_000


def test_reports_are_made_while_other_threads_count():
    stop = threading.Event()

    def work():
        with torchdevice.redirect():
            while not stop.is_set():
                torch.device("cuda")  # in threads

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        counts = []
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            counts.append(sum(e.count for e in line_of(torchdevice.report(), "# in threads")))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert counts == sorted(counts) and counts[-1] > 0

"""The parts of `torchdevice test` that run nothing of a suite."""

from __future__ import annotations

import doctest
import json
import os
import sys
import threading
import time
import unittest

import pytest

from torchdevice_mode._run import Program
from torchdevice_mode._tester import process, suite
from torchdevice_mode._tester.process import Ended, Stopped
from torchdevice_mode._tester.results import Store, UnitResult, slug
from torchdevice_mode._tester.stream import Error, Result, Task, describe, fold, written
from torchdevice_mode._tester.suite import PLAIN, Run, Suite, SuiteError, options_of
from torchdevice_mode._tester.text import events, headline

# --- lines -------------------------------------------------------------------------------------


def results(tmp_path, *records):
    path = tmp_path / "stream"
    path.write_text(written(records) + '{"kind": "cut o')
    return fold(path)


def phase(outcome, **fields):
    return {"kind": "result", "test": "t", "outcome": outcome, **fields}


@pytest.mark.parametrize(
    ("phases", "outcome"),
    [
        (["passed", "passed", "passed"], "passed"),
        (["passed", "failed", "passed"], "failed"),
        (["passed", "failed", "error"], "error"),
        (["passed", "passed", "error"], "error"),
        (["skipped", "passed"], "skipped"),
        (["passed", "xfailed", "passed"], "xfailed"),
        (["failed", "again", "passed"], "passed"),
        (["failed", "again", "failed"], "failed"),
    ],
)
def test_phases_of_a_test_are_one_result(tmp_path, phases, outcome):
    folded = results(tmp_path, *(phase(one, seconds=1.0) for one in phases))
    assert folded.results["t"].outcome == outcome
    assert folded.results["t"].seconds == len(phases)


def test_lines_tell_where_a_process_ended(tmp_path):
    start = {"kind": "start", "test": "t"}
    running = results(tmp_path, {"kind": "collected", "tests": ["t", "u"]}, start)
    assert (running.running, running.collected, running.ended) == ("t", ["t", "u"], False)
    ended = results(tmp_path, start, {"kind": "finish", "test": "t"}, {"kind": "end", "events": {}})
    assert (ended.running, ended.ended) == ("", True)
    assert fold(tmp_path / "absent").collected is None


def test_an_error_of_any_class_is_described():
    class Awkward(Exception):
        def __str__(self):
            raise ValueError

    try:
        raise Awkward
    except Awkward as error:
        told = describe(error, text="x" * 100_000)
    assert told["message"] == "<str() raised ValueError>"
    assert told["place"].endswith("in test_an_error_of_any_class_is_described")
    assert len(told["text"]) < 30_000
    json.dumps(describe(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")))
    assert describe(ValueError("\udcff"))["type"] == "ValueError"


def halves(x):
    """Half of it.

    >>> halves(1)
    0.5
    >>> halves("x")
    """
    return 1 / 0 if x == "x" else x


def test_an_example_of_a_doctest_is_described_by_what_was_wrong():
    [test] = doctest.DocTestFinder().find(halves, "halves", globs={"halves": halves})
    runner = doctest.DebugRunner(verbose=False)
    with pytest.raises(doctest.DocTestFailure) as failure:
        runner.run(test, clear_globs=False)
    told = describe(failure.value)
    assert told["message"] == "expected 0.5, got 1"
    line = halves.__code__.co_firstlineno + 3
    assert told["place"] == f"{__file__}:{line} in halves"
    test.examples = test.examples[1:]
    with pytest.raises(doctest.UnexpectedException) as failure:
        runner.run(test)
    told = describe(failure.value)
    assert told["type"] == "ZeroDivisionError" and told["place"].endswith(" in halves")


def test_the_place_of_a_failed_assertion_is_where_it_was_made():
    def helper():
        __tracebackhide__ = True
        unittest.TestCase().assertEqual(1, 2)

    with pytest.raises(AssertionError) as failure:
        helper()
    assert describe(failure.value)["place"].endswith(
        " in test_the_place_of_a_failed_assertion_is_where_it_was_made"
    )


# --- command lines -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "shown"),
    [
        (None, "pytest"),
        (Program("script", "pytest", ("-k", "a")), "pytest -k a"),
        (Program("script", "py.test", ("-k", "a")), "pytest -k a"),
        (Program("module", "pytest", ("x",)), "pytest x"),
        (Program("script", "python", ("-m", "pytest", "x")), "pytest x"),
        (Program("script", "/usr/bin/python3.12", ("-m", "unittest", "x")), "unittest x"),
        (Program("script", "unittest", ("discover",)), "unittest discover"),
        (Program("script", "here", ("-x",)), "pytest here -x"),
        (
            Program("script", "here/test_a.py::test_b[x::y]", ()),
            "pytest here/test_a.py::test_b[x::y]",
        ),
    ],
)
def test_the_runner_is_read_off_the_command_line(program, shown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "test_a.py").touch()
    assert " ".join(Suite.read(program).shown) == shown


@pytest.mark.parametrize(
    "program",
    [Program("script", "tox"), Program("code", "1"), Program("script", "python", ("-m", "nose"))],
)
def test_another_runner_is_refused_in_one_sentence(program):
    with pytest.raises(SuiteError, match=r"^'.*' is neither a runner of tests nor .*\.$"):
        Suite.read(program)


def test_without_pytest_one_sentence_says_so(monkeypatch):
    monkeypatch.setattr(suite, "find_spec", lambda name: None)
    with pytest.raises(SuiteError, match="pytest is not installed for "):
        Suite.read(None)
    assert Suite.read(Program("script", "unittest")).runner == "unittest"


@pytest.mark.parametrize(
    ("arguments", "words", "test", "command"),
    [
        (["tests"], ["tests"], "tests/test_a.py::t", "tests/test_a.py::t"),
        (["-k", "x", "x", "-q"], ["x"], "x/test_a.py::t", "-k x -q x/test_a.py::t"),
        ([], [], "test_a.py::t[a/b::c]", "test_a.py::t[a/b::c]"),
        (["--", "x"], ["x"], "x/a.py::t", "x/a.py::t"),
    ],
)
def test_a_test_is_repeated_without_the_other_files(
    arguments, words, test, command, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run_ = Run("redirected", ("--target=cpu",))
    found = Suite("pytest", tuple(arguments), tuple(words)).repeats(
        run_, test, unit="any", root=str(tmp_path)
    )
    assert " ".join(found) == f"torchdevice run --target=cpu -m pytest {command}"


def test_the_command_is_told_from_where_the_user_is(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    [*_, place] = Suite("pytest").repeats(
        Run(PLAIN), "sub/test_a.py::t", unit=str(tmp_path / "sub/test_a.py"), root=str(tmp_path)
    )
    assert place == "test_a.py::t"


@pytest.mark.parametrize(
    ("arguments", "unit", "command"),
    [
        ([], "/p/test_a.py", "discover -k test_a.A.test_b"),
        (["discover", "-s", "p"], "/p/test_a.py", "discover -s p -k test_a.A.test_b"),
        (["test_a"], "test_a", "test_a.A.test_b"),
        (["discover", "-k", "a", "-v"], "/p/test_a.py", "discover -v -k test_a.A.test_b"),
    ],
)
@pytest.mark.parametrize("test", ["test_a.A.test_b", "tearDownClass (test_a.A.test_b)"])
def test_a_unittest_is_repeated_by_name(arguments, unit, command, test):
    found = Suite("unittest", tuple(arguments)).repeats(Run(PLAIN), test, unit=unit, root="/p")
    assert " ".join(found) == f"python -m unittest {command}"


def test_settings_reach_the_redirected_run_and_not_the_plain_one():
    given = {"target": "cpu", "verify_raise": False, "silence": ["a", "b"], "simulate": "mps"}
    assert options_of(given) == ("--target=cpu", "--no-verify-raise", "--silence=a", "--silence=b")
    environ = {
        "TORCHDEVICE_TARGET": "cpu",
        "TORCHDEVICE_SIMULATE": "mps",
        "ACTIVATE_TORCH_DEVICE": "1",
        "HOME": "/h",
    }
    assert Run(PLAIN).environ(environ) == {"HOME": "/h"}
    redirected = Run("redirected", ()).environ(environ)
    assert redirected == {"HOME": "/h", "TORCHDEVICE_TARGET": "cpu"}


# --- processes ---------------------------------------------------------------------------------


def run(tmp_path, code, *, limit=60.0, stop=None):
    return process.run(
        [sys.executable, "-c", code],
        environ=os.environ,
        log=tmp_path / "log",
        limit=limit,
        stop=stop or threading.Event(),
    )


def test_a_process_past_its_time_is_ended_with_what_it_started(tmp_path):
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)"
    )
    ended = run(tmp_path, code, limit=2.0)
    assert ended.timed_out and ended.code < 0
    child = int((tmp_path / "log").read_text().split()[0])
    for _ in range(100):
        try:
            state = open(f"/proc/{child}/stat").read().rsplit(")")[-1].split()[0]
        except OSError:
            break
        if state == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the child is still there")


def test_stopping_ends_the_process(tmp_path):
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        run(tmp_path, "import time; time.sleep(600)", stop=stop)


@pytest.mark.parametrize(
    ("ended", "how"),
    [
        (Ended(0, False, 1), "ended with exit code 0"),
        (Ended(-11, False, 1), "was ended by SIGSEGV"),
        (Ended(-9, False, 1), "was ended by SIGKILL, as where memory runs out"),
        (Ended(-9, True, 60), "was ended after 60 s, its time limit"),
    ],
)
def test_an_end_in_words(ended, how):
    assert ended.how == how


# --- the folder --------------------------------------------------------------------------------


def test_results_are_read_as_they_were_kept(tmp_path):
    file = tmp_path / "test_a.py"
    file.write_text("1")
    store = Store(tmp_path / "results")
    store.begin({"command": ["pytest"]}, resume=False)
    result = UnitResult(str(file), "plain", {"t": Result("failed", 1.0, Error("E", "m"))})
    result.source = __import__("hashlib").sha256(b"1").hexdigest()[:16]
    store.save(result)
    store.begin({"command": ["pytest"]}, resume=True)
    assert store.load("plain", str(file)) == result
    assert store.load("redirected", str(file)) is None
    file.write_text("2")
    assert store.load("plain", str(file)) is None, "the file has changed since"


def test_a_new_run_forgets_results_and_leaves_other_files(tmp_path):
    store = Store(tmp_path / "results")
    store.begin({}, resume=False)
    store.save(UnitResult("name", "plain"))
    (store.folder / "mine.txt").touch()
    store.begin({}, resume=False)
    assert store.load("plain", "name") is None
    assert (store.folder / "mine.txt").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SuiteError, match="holds something other than results"):
        Store(tmp_path).begin({}, resume=False)
    with pytest.raises(SuiteError, match="cannot be written"):
        Store(tmp_path / "file").begin({}, resume=False)
    with pytest.raises(SuiteError, match="cannot be written"):
        Store(tmp_path / "file" / "sub").begin({}, resume=False)


def test_results_of_another_command_are_not_resumed(tmp_path):
    store = Store(tmp_path / "results")
    store.begin({"command": ["pytest", "a"]}, resume=True)
    with pytest.raises(SuiteError, match=r"results of another command \(pytest a\)"):
        store.begin({"command": ["pytest", "b"]}, resume=True)
    with pytest.raises(SuiteError, match=r"of this command with other options \(pytest a\)"):
        store.begin({"command": ["pytest", "a"], "runs": ["plain"]}, resume=True)
    store.begin({"command": ["pytest", "b"]}, resume=False)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_two_commands_do_not_share_a_folder(tmp_path):
    one, two = Store(tmp_path / "results"), Store(tmp_path / "results")
    one.begin({}, resume=False)
    with pytest.raises(SuiteError, match="is in use by another torchdevice test: wait "):
        two.begin({}, resume=True)
    one.close()
    two.begin({}, resume=True)


@pytest.mark.parametrize("unit", ["/a/b/tests/test_a.py", "x" * 500, "/ü/\udcff.py", ""])
def test_names_of_files_about_a_unit_are_plain(unit):
    name = slug(unit)
    assert name.isascii() and len(name) < 100 and "/" not in name
    assert unit in ("",) or slug(unit + "x") != name


def test_a_task_survives_its_file(tmp_path):
    task = Task("ü\n", only=frozenset(["a::b"]), skip=frozenset(["\udcff"]), name="n")
    task.write(tmp_path / "task")
    assert Task.read(tmp_path / "task") == task
    assert task.leaves_out("other") and not task.leaves_out("a::b")


# --- what came out -----------------------------------------------------------------------------


def test_events_are_called_as_in_every_summary():
    told = {"events": {"answer": 1, "copy": 2, "redirection": 3}}
    assert events(told) == "3 redirections, 1 answered call, 2 copies"


@pytest.mark.parametrize(
    ("redirected", "simulated", "sentence"),
    [
        ([], [], "no test that passes on plain torch fails redirected"),
        (
            ["a"],
            [],
            "1 test passes on plain torch and fails redirected (1 redirected, 0 simulated)",
        ),
        (["a"], ["a"], "1 test passes on plain torch and fails redirected (1 redirected, 1 sim"),
        (["a"], ["b"], "2 tests pass on plain torch and fail redirected (1 redirected, 1 sim"),
    ],
)
def test_a_test_that_fails_in_two_runs_is_one(redirected, simulated, sentence):
    comparisons = [
        {
            "run": run,
            "tests": [{"file": "f", "test": name, "category": "newly failing"} for name in names],
        }
        for run, names in (("redirected", redirected), ("simulated", simulated))
    ]
    told = {"comparisons": comparisons, "interrupted": False, "exit_code": 1}
    assert headline(told).startswith(sentence)
    assert headline({**told, "exit_code": 2}) == "no test was run"

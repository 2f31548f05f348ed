"""`torchdevice test` on small suites: what it finds, runs, survives and says.

None of them imports torch, so that a process takes no longer than pytest does. What stands for the
difference between the runs is a variable that redirection sets.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from xml.etree import ElementTree

import pytest

from torchdevice_mode._tester import command
from torchdevice_mode.cli import main

REDIRECTED = "__import__('os').environ.get('ACTIVATE_TORCH_DEVICE')"
JUNIT = {
    "testsuites": {"name", "tests", "failures", "errors"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"},
    "testcase": {"name", "classname", "time"},
    "failure": {"type", "message"},
}
"""Attributes that the schema of Jenkins has, which pytest's own files are made for."""
ODD = ["a/b", "c::d", "ü ö", "e\nf", "[g]", "<b>&amp;", "", "`h`", "|"]


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).replace("REDIRECTED", REDIRECTED))


@pytest.fixture(autouse=True)
def without_torch(monkeypatch, tmp_path_factory):
    """No process imports torch, and none is told of settings."""
    monkeypatch.setattr(command, "_look", lambda runner, run: {"torch": "0", run.name: "cpu"})
    for name in list(os.environ):
        if name.startswith(("TORCHDEVICE_", "PYTEST_")) or name == "ACTIVATE_TORCH_DEVICE":
            if name != "PYTEST_CURRENT_TEST":
                monkeypatch.delenv(name)
    # Plugins of this environment take longer to import than the suites take to run.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words, results=".torchdevice_test"):
    """The command; its exit code, and the document that it leaves."""
    code = main(["test", "--jobs=2", f"--results={results}", *words])
    try:
        with open(os.path.join(results, "report.json")) as file:
            return code, json.load(file)
    except FileNotFoundError:
        return code, None


def categories(told, run="redirected"):
    [comparison] = [one for one in told["comparisons"] if one["run"] == run]
    return {one["test"]: one["category"] for one in comparison["tests"]}


def outcomes(told, run="redirected"):
    [comparison] = [one for one in told["comparisons"] if one["run"] == run]
    return {one["test"]: one["after"] for one in comparison["tests"]}


def test_a_suite_with_everything(project, capsys, monkeypatch):
    write(
        project,
        {
            "pyproject.toml": """
                [tool.pytest.ini_options]
                addopts = [
                    "-pxdist", "-n2", "-x", "--sw", "--junitxml=own.xml", "--basetemp=own",
                    "--own-option", "--cov=.",
                ]
                testpaths = ["tests", "more"]
                xfail_strict = true
                """,
            "tests/conftest.py": """
                def pytest_addoption(parser):
                    parser.addoption("--own-option", action="store_true")
                """,
            # What stands for pytest-cov and pytest-randomly.
            "like_others.py": """
                def pytest_addoption(parser):
                    parser.addoption("--cov", dest="cov_source", action="append")
                    parser.addoption("--randomly-seed", dest="randomly_seed", default="default")

                def pytest_load_initial_conftests(early_config):
                    assert not early_config.known_args_namespace.cov_source

                def pytest_configure(config):
                    assert config.option.randomly_seed in (0, "0")
                """,
            "tests/test_odd.py": f"""
                import pytest

                @pytest.mark.parametrize("sign", {ODD!r})
                def test_sign(sign, tmp_path):
                    assert not REDIRECTED or sign != "c::d"
                """,
            "tests/one/test_same.py": "def test_same(): pass",
            "tests/two/test_same.py": "def test_same(): assert not REDIRECTED, 'number 12'",
            "more/test_same_too.py": """
                import pytest, unittest

                def test_number(): assert not REDIRECTED, 'number 13'

                @pytest.mark.skipif("not REDIRECTED", reason="needs CUDA")
                def test_cuda(): pass

                class TestOld(unittest.TestCase):
                    def test_parts(self):
                        for part in range(3):
                            with self.subTest(part=part):
                                self.assertTrue(part != 1 or not REDIRECTED)

                @pytest.mark.xfail(reason="as known")
                def test_expected(): assert REDIRECTED
                """,
            "tests/test_broken.py": "import no_such_module",
            "tests/test_here.py": "if REDIRECTED: raise OSError('here')\ndef test_a(): pass",
            "tests/test_whole.py": """
                import pytest
                if not REDIRECTED: pytest.skip('no CUDA', allow_module_level=True)
                def test_a(): pass
                """,
        },
    )
    (project / "tests/two/__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(project), *sys.path]))
    options = ["--report=out/page.html", "--report=junit.xml"]
    code, told = run(*options, "--", "pytest", "-p", "like_others", "-k", "not nothing")
    assert code == 1
    found = categories(told)
    assert found["tests/test_odd.py::test_sign[c::d]"] == "newly failing"
    assert sum(name.startswith("tests/test_odd.py::") for name in found) == len(ODD)
    assert found["tests/one/test_same.py::test_same"] == "passing alike"
    assert found["tests/two/test_same.py::test_same"] == "newly failing"
    assert found["more/test_same_too.py::test_cuda"] == "only redirected, passing"
    assert found["more/test_same_too.py::TestOld::test_parts"] == "newly failing"
    assert found["tests/test_broken.py"] == "failing alike"
    assert found["tests/test_here.py::test_a"] == "newly failing"
    assert found["tests/test_whole.py::test_a"] == "only redirected, passing"
    assert "tests/test_here.py" not in found and "tests/test_whole.py" not in found
    causes = {cause["message"].splitlines()[0]: cause for cause in told["comparisons"][0]["causes"]}
    assert causes["number 12"]["tests"] == 2, "two tests whose messages differ in a number"
    assert "[XPASS(strict)] as known" in causes
    assert causes["here"]["type"] == "OSError" and "test_here.py:1" in causes["here"]["place"]
    # The files that the suite's own options name are nobody's.
    assert not (project / "own.xml").exists()
    noted = [path.name for path in (project / ".pytest_cache").rglob("*") if path.is_file()]
    assert not {"lastfailed", "nodeids", "stepwise"} & set(noted)
    # What is printed: each failing test's cause, and the command that repeats it.
    said = capsys.readouterr()
    options = "-p like_others -k 'not nothing' --randomly-seed=0"
    assert f"torchdevice run -m pytest {options} 'tests/test_odd.py::test_sign[c::d]'" in said.out
    summary = (project / ".torchdevice_test/report.md").read_text()
    assert "`pytest -p like_others -k 'not nothing'`" in summary
    assert "- plain, `tests/test_broken.py`: tests did not run: ModuleNotFoundError" in summary
    assert f"The log is `{causes['here']['log']}` in the folder of results." in summary
    assert said.err.startswith("torchdevice: 7 files of tests, plain and redirected to cpu\n")
    assert "[14/14] " in said.err
    page = (project / "out/page.html").read_text()
    assert "<b>&amp;" not in page and 'href="../.torchdevice_test/logs/redirected/' in page
    tree = ElementTree.parse(project / "junit.xml").getroot()
    assert {tag: {name for one in tree.iter(tag) for name in one.attrib} for tag in JUNIT} == JUNIT
    cases = list(tree.iter("testcase"))
    failing = [case.get("name") for case in cases if len(case) and case[0].tag != "skipped"]
    assert len(failing) == sum(category == "newly failing" for category in found.values())
    # The commands do what they say.
    repeat = causes["here"]["repeat"].replace("torchdevice", f"{sys.executable} -m torchdevice")
    again = subprocess.run(repeat + " -p no:xdist -o addopts=", shell=True, capture_output=True)
    assert b"OSError: here" in again.stdout


def test_crashes_end_no_more_than_their_test(project):
    write(
        project,
        {
            "test_crash.py": """
                import ctypes, os, pytest, signal, sys

                def test_first(): pass
                def test_exit():
                    if REDIRECTED: os._exit(0)
                def test_between(): assert not REDIRECTED
                def test_fault():
                    if REDIRECTED: ctypes.string_at(0)
                def test_killed():
                    if REDIRECTED: os.kill(os.getpid(), signal.SIGKILL)
                def test_left():
                    if REDIRECTED: pytest.exit("enough")
                def test_last(): pass
                """,
            "test_import.py": "import os\nif REDIRECTED: os._exit(3)\ndef test_a(): pass",
            "test_end.py": """
                import atexit, os, signal
                if REDIRECTED: atexit.register(os.kill, os.getpid(), signal.SIGABRT)
                def test_a(): pass
                """,
        },
    )
    code, told = run()
    assert code == 1
    found = {name.removeprefix("test_crash.py::"): one for name, one in outcomes(told).items()}
    assert {name for name, one in found.items() if one == "crashed"} >= {
        "test_exit",
        "test_fault",
        "test_killed",
        "test_left",
    }
    assert found["test_between"] == "failed"
    assert found["test_first"] == found["test_last"] == "passed"
    assert found["test_import.py::test_a"] == "crashed"
    assert found["test_end.py::test_a"] == "passed"
    assert found["test_end.py::(after the tests)"] == "crashed"
    assert categories(told)["test_end.py::(after the tests)"] == "newly failing"
    repeats = {one["test"]: one.get("repeat") for one in told["comparisons"][0]["tests"]}
    assert repeats["test_end.py::(after the tests)"] == "torchdevice run -m pytest test_end.py"
    causes = {cause["message"]: cause for cause in told["comparisons"][0]["causes"]}
    assert {f"the process ended with exit code {code}" for code in (0, 3)} <= set(causes)
    cause = causes["the process was ended by SIGSEGV"]
    assert "Segmentation fault" in cause["text"]


def test_a_test_that_hangs_is_told_where(project):
    write(
        project,
        {
            "test_slow.py": """
                import time
                def hangs(): time.sleep(600)
                def test_first(): pass
                def test_hangs():
                    if REDIRECTED: hangs()
                def test_last(): pass
                """
        },
    )
    code, told = run("--timeout=6", "--retries=0")
    assert code == 1
    assert list(outcomes(told).values()) == ["timeout", "passed", "passed"]
    [cause] = told["comparisons"][0]["causes"]
    assert cause["type"] == "Timeout" and "in hangs" in cause["text"]


def test_what_differs_once_is_flaky(project):
    write(
        project,
        {
            "test_flaky.py": """
                import pathlib
                def test_once():
                    if REDIRECTED and not pathlib.Path("been").exists():
                        pathlib.Path("been").touch()
                        assert False
                def test_always(): assert not REDIRECTED
                """
        },
    )
    _, told = run()
    assert categories(told) == {
        "test_flaky.py::test_once": "flaky",
        "test_flaky.py::test_always": "newly failing",
    }
    (project / "been").unlink()
    _, told = run("--retries=0")
    assert set(categories(told).values()) == {"newly failing"}


def test_resuming_runs_what_has_no_results(project, capsys):
    count = "import pathlib; pathlib.Path('count').open('a').write('x')\n"
    write(project, {f"test_{i}.py": f"{count}def test_a(): pass\n" for i in range(3)})
    assert run()[0] == 0
    assert len((project / "count").read_text()) == 6
    (project / "test_1.py").write_text(f"{count}def test_b(): pass\n")
    _, told = run("--resume")
    assert len((project / "count").read_text()) == 8, "the file that changed, and no other"
    assert set(categories(told)) == {"test_0.py::test_a", "test_1.py::test_b", "test_2.py::test_a"}
    capsys.readouterr()
    assert run("--resume", "--", "pytest", "-q")[0] == 2
    assert "holds results of another command (pytest)" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_children_and_keeps_results(project, number):
    write(
        project,
        {
            "test_0.py": "def test_a(): pass",
            "test_1.py": """
                import os, pathlib, time
                def test_b():
                    pathlib.Path("running").write_text(str(os.getpid()))
                    time.sleep(600)
                """,
        },
    )
    code = (
        "from torchdevice_mode._tester import command; from torchdevice_mode.cli import main; "
        "command._look = lambda runner, run: {run.name: 'cpu'}; "
        "raise SystemExit(main(['test', '--jobs=1']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    while not (project / "running").exists() or not (project / "running").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; 0 tests newly failing so far" in said
    with pytest.raises(ProcessLookupError):
        os.kill(int((project / "running").read_text()), 0)
    told = json.loads((project / ".torchdevice_test/report.json").read_text())
    assert told["interrupted"] and categories(told) == {"test_0.py::test_a": "passing alike"}


def test_parts_of_a_suite(project):
    write(
        project,
        {
            "a/test_a.py": "class TestX:\n  def test_1(self): pass\n  def test_2(self): pass",
            "a/test_b.py": "def test_1(): pass\ndef test_2(): pass",
            "pkg/__init__.py": "",
            "pkg/mod.py": "def test_x(): raise SystemExit\ndef f():\n  '''\n  >>> 1\n  1\n  '''",
        },
    )
    words = ["a/test_a.py::TestX::test_2", "a/test_b.py", "pkg/mod.py::nope", "-k", "test_2"]
    _, told = run("--", "pytest", *words)
    [problem] = told["runs"][0]["problems"]
    assert problem["file"] == "pkg/mod.py" and "not found: " in problem["problem"]
    assert set(categories(told)) == {"a/test_a.py::TestX::test_2", "a/test_b.py::test_2"}
    _, told = run("--", "pytest", "--doctest-modules", "pkg")
    assert set(categories(told)) == {"pkg/mod.py::pkg.mod.f"}
    _, told = run("--", "python", "-m", "pytest", "--pyargs", "pkg", "--doctest-modules")
    assert set(categories(told)) == {"pkg/mod.py::pkg.mod.f"}


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--", "unittest", "discover", "-s", "tests", "-t", "."],
        ["--", "unittest", "tests.test_u"],
    ],
)
def test_a_suite_of_unittest(project, words):
    write(
        project,
        {
            "tests/__init__.py": "",
            "tests/test_u.py": """
                import os, unittest

                class A(unittest.TestCase):
                    def test_ok(self): pass
                    def test_crash(self):
                        if REDIRECTED: os._exit(0)
                    def test_fails(self): self.assertFalse(REDIRECTED, "number 1")
                    def test_interrupted(self):
                        if REDIRECTED: raise KeyboardInterrupt
                    def test_parts(self):
                        for part in range(3):
                            with self.subTest(part=part):
                                self.assertTrue(part != 1 or not REDIRECTED)
                    @unittest.skipUnless(REDIRECTED, "needs CUDA")
                    def test_cuda(self): pass
                    @unittest.expectedFailure
                    def test_expected(self): self.fail()

                class B(unittest.TestCase):
                    @classmethod
                    def setUpClass(cls):
                        if REDIRECTED: raise OSError("no B")
                    def test_b(self): pass

                def tearDownModule():
                    if REDIRECTED: raise OSError("still there")
                """,
        },
    )
    code, told = run(*(words or ["--", "unittest"]))
    assert code == 1
    found = {name.rpartition(".")[2]: one for name, one in categories(told).items()}
    assert {name for name, one in found.items() if one == "newly failing"} == {
        "test_crash",
        "test_fails",
        "test_interrupted",
        "test_parts",
        "test_b",
        "test_u)",  # tearDownModule
    }
    assert found["test_cuda"] == "only redirected, passing"
    assert found["test_ok"] == found["test_expected"] == "passing alike"


@pytest.mark.parametrize("runner", ["unittest", "pytest"])
def test_tests_none_of_which_can_be_imported(project, runner, capsys):
    write(project, {"test_u.py": "import no_such_module", "test_v.py": "import unittest"})
    code, told = run("--", runner)
    assert code == 2
    assert list(categories(told).values()) == ["failing alike"]
    said = capsys.readouterr()
    assert "test_u.py: tests did not run: ModuleNotFoundError: No module named " in said.out
    assert f"error: no test could be run: {runner} collects none without an error." in said.err


@pytest.mark.parametrize(
    ("files", "words", "complaint"),
    [
        ({}, [], "there are no tests: pytest collects none."),
        ({"test_a.py": ""}, [], "there are no tests: pytest collects none."),
        ({"test_a.py": ""}, ["--", "unittest"], "there are no tests: unittest collects none."),
        (
            {"test_a.py": "def test_a(): pass"},
            ["--", "pytest", "--collect-only"],
            "no test was run: pytest --collect-only only collects them.",
        ),
        ({}, ["--", "pytest", "--version"], "collect the tests (it ended before it came to them)"),
        ({}, ["--", "pytest", "nowhere"], "file or directory not found: nowhere"),
        ({}, ["--", "pytest", "--no-such-option"], "unrecognized arguments: --no-such-option"),
        ({"conftest.py": "import no_such"}, [], "No module named 'no_such'"),
        ({}, ["--", "tox"], "'tox' is neither a runner of tests nor a file or folder"),
        ({}, ["--jobs=0"], "--jobs 0 is too small: give 1 or more."),
        ({}, ["--report=a.pdf"], "'a.pdf' names no kind of report: give a file that ends in .json"),
        ({}, ["--policy=gentle"], "--policy 'gentle' is not a value that it can have"),
    ],
)
def test_what_cannot_be_run_is_said_and_exits_2(project, capsys, files, words, complaint):
    write(project, files)
    code, _ = run(*words)
    assert code == 2
    said = capsys.readouterr().err
    errors = [line for line in said.splitlines() if line.startswith("torchdevice: error: ")]
    assert len(errors) == 1 and complaint in errors[0]
    assert said.endswith(f"{errors[0]}\n"), "it is one line, and the last"


def test_strict_counts_what_only_the_redirected_run_runs(project, capsys):
    write(
        project,
        {"test_a.py": "import pytest\n@pytest.mark.skipif('not REDIRECTED')\ndef test_a(): 1 / 0"},
    )
    (project / "test_a.py").write_text(
        "import pytest\n"
        f"@pytest.mark.skipif(not {REDIRECTED}, reason='CUDA')\ndef test_a(): 1 / 0\n"
    )
    code, told = run()
    assert code == 0 and categories(told) == {"test_a.py::test_a": "only redirected, failing"}
    capsys.readouterr()
    assert run("--strict", "--quiet")[0] == 1
    [line] = "".join(capsys.readouterr()).splitlines()
    assert line.startswith("torchdevice: no test that passes on plain torch fails redirected; 1 ")


def test_settings_and_plugins_reach_the_tests(project, monkeypatch):
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    write(
        project,
        {
            "test_a.py": """
                import os
                def test_settings(pytestconfig):
                    assert pytestconfig.pluginmanager.hasplugin("xdist")
                    assert os.environ.get("TORCHDEVICE_RNG") == ("cpu" if REDIRECTED else None)
                    assert os.environ.get("TORCHDEVICE_TARGET") == ("cpu" if REDIRECTED else None)
                """
        },
    )
    monkeypatch.setenv("TORCHDEVICE_TARGET", "cpu")
    assert run("--rng=cpu", "--", "test_a.py")[0] == 0

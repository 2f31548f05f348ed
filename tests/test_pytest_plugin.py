"""The pytest plugin, on small suites of its own: what is redirected, and what is said of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

import torchdevice_mode
from torchdevice_mode import _session, pytest_plugin
from torchdevice_mode._settings import ENVIRONMENT

SUITE = {
    "conftest.py": """
        import torch
        AT_IMPORT = torch.zeros(2, device="cuda").device
        """,
    "test_a.py": """
        import subprocess, sys
        import pytest
        import torch
        from conftest import AT_IMPORT

        @pytest.mark.parametrize("i", range(5))
        def test_calls(i):
            assert torch.ones(i, device="cuda:0").device == torch.zeros(1).cuda().device

        def test_conftest_files_and_modules_are_redirected_when_imported():
            assert AT_IMPORT == torch.device("cuda")

        @pytest.mark.torchdevice(enabled=False)
        class TestPlain:
            def test_nothing_is_redirected(self):
                with pytest.raises((AssertionError, RuntimeError)):
                    torch.ones(1, device="cuda")

            @pytest.mark.torchdevice("cpu", policy="explicit")
            def test_the_closest_marker_holds(self):
                assert torch.ones(1, device="cuda").is_cpu
                import torchdevice
                assert torchdevice.explain(None).redirected is False
        """,
    "test_b.py": """
        import doctest
        import torch

        def halves(x):
            '''Half of it.

            >>> halves(torch.ones(1, device="cuda")).item()
            0.5
            '''
            return x / 2
        """,
}


@pytest.fixture(autouse=True)
def without_settings(monkeypatch):
    names = ["TORCHDEVICE_SIMULATE", "TORCHDEVICE_LEDGERS", "ACTIVATE_TORCH_DEVICE"]
    for name in [*names, *ENVIRONMENT.values(), "PYTEST_ADDOPTS"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(pytest_plugin.__file__).parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # `pytester` gives its processes another home, where no simulated device is kept yet.
    monkeypatch.setenv("TORCHDEVICE_CACHE", str(Path.home() / ".cache" / "torchdevice"))


@pytest.fixture
def suite(pytester):
    for name, text in SUITE.items():
        path = pytester.path / "tests" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip())
    return pytester


def run(pytester, *arguments, autoload=False):
    """pytest in a process of its own, with all that is installed or with this plugin alone.

    The others take longer to import than the suites here take to run.
    """
    plugins = [] if autoload else ["-p", pytest_plugin.__name__]
    with pytest.MonkeyPatch.context() as patch:
        if not autoload:
            patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        words = ("-p", "no:cacheprovider", *plugins, *arguments)
        return pytester.runpytest_subprocess(*words, timeout=120)


def inline(pytester, *arguments):
    """pytest in this process: only for what does not come to import torch."""
    return pytester.runpytest_inprocess(*arguments)


def counts(result):
    """Line of the suite -> how many events it had, as the section tells."""
    found = Counter()
    for number, place in re.findall(r"^ +([\d,]+)x +(\S+:\d+)", result.stdout.str(), re.M):
        found[place] += int(number.replace(",", ""))
    return found


# --- redirection -------------------------------------------------------------------------------


def test_a_suite_is_redirected_from_its_first_import_on(suite):
    result = run(suite, "--torchdevice", "tests", "--doctest-modules", "-v", autoload=True)
    result.assert_outcomes(passed=9)
    result.stdout.fnmatch_lines(
        ["torchdevice: redirects to *", "*= torchdevice =*", "*redirections, target *"]
    )
    assert counts(result)["tests/conftest.py:2"] == 1


def test_counts_with_workers_are_those_without(suite):
    """Workers of pytest-xdist import the modules each for itself; a test runs once."""
    alone = counts(run(suite, "--torchdevice", "tests"))
    options = ["--torchdevice", "tests", "--torchdevice-report=out.json"]
    result = run(suite, "-p", "xdist", "-n2", *options)
    together = counts(result)
    calls = "tests/test_a.py:8"
    assert alone[calls] == together[calls] >= 10
    # In each worker, and in the process that gives them tests.
    assert together["tests/conftest.py:2"] == 3
    result.stdout.fnmatch_lines(["report written to out.json"])
    assert "test_a.py" in (suite.path / "out.json").read_text()


def test_without_the_option_torch_is_plain_and_not_imported(pytester):
    pytester.makepyfile(
        """
        import sys
        def test_nothing_is_imported():
            assert not {"torch", "torchdevice_mode._session"} & set(sys.modules)
        """
    )
    result = run(pytester)
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*torchdevice:*")
    # With it, torch is imported by who uses it.
    run(pytester, "--torchdevice").assert_outcomes(passed=1)


@pytest.mark.off_cuda
def test_the_simulated_device_is_there_at_import(suite):
    options = ["--torchdevice-simulate=mps", "-o", "torchdevice=yes"]
    result = run(suite, "-p", "xdist", "-n1", *options, "tests/test_a.py")
    result.assert_outcomes(passed=8)
    result.stdout.fnmatch_lines(["torchdevice: *simulated mps", "*, target mps:0"])


@pytest.mark.off_cuda
def test_fixtures(pytester):
    pytester.makepyfile(
        """
        import pytest, torch

        def test_a_test_is_redirected(simulated_mps, torchdevice_redirect):
            assert torch.zeros(1).device.type == "mps"
            assert simulated_mps.loaded_device() == "mps"

        def test_and_the_next_is_not():
            assert torch.zeros(1).is_cpu

        @pytest.mark.parametrize("torchdevice_redirect", ["cpu", {"target": "cpu"}], indirect=True)
        def test_settings(torchdevice_redirect):
            assert torch.zeros(1, device="cuda").is_cpu

        def test_a_process_simulates_one_device(simulated_cuda):
            pass

        @pytest.mark.torchdevice("npu")
        def test_a_target_that_is_not_there():
            pass
        """
    )
    result = run(pytester, "-rsE")
    result.assert_outcomes(passed=4, skipped=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*marker torchdevice: target='npu' *", "*this process simulates mps, and has one*"]
    )


def test_a_forked_test_counts(pytester):
    pytester.makepyfile(
        """
        import os, torch
        from _pytest.runner import runtestprotocol

        def test_in_a_child():
            torch.zeros(1, device="cuda")
        """
    )
    pytester.makeconftest(
        """
        import os
        import pytest
        from _pytest.runner import runtestprotocol

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_protocol(item):
            child = os.fork()
            if not child:
                runtestprotocol(item, log=False)
                os._exit(0)
            os.waitpid(child, 0)
            return True
        """
    )
    assert counts(run(pytester, "--torchdevice")) == {"test_a_forked_test_counts.py:5": 1}


# --- what is said ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "header", "section"),
    [("-q", False, "one line"), ("-qq", False, ""), ("--no-header", False, "section")]
    + [("--no-summary", True, "")],
)
def test_how_much_is_said(pytester, option, header, section):
    pytester.makepyfile("def test_a(): pass")
    said = run(pytester, "--torchdevice", option).stdout.str()
    assert ("torchdevice: redirects to" in said) is header
    assert ("= torchdevice =" in said) is (section == "section")
    assert ("nothing was redirected" in said) is bool(section)


def test_help_lists_everything(pytester):
    said = inline(pytester, "--help").stdout.str()
    for text in ("--torchdevice=[TARGET]", "--torchdevice-simulate=DEVICE", "torchdevice_simulate"):
        assert text in said
    assert "@pytest.mark.torchdevice(" in inline(pytester, "--markers").stdout.str()


# --- the command line --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "value", "files"),
    [
        ("--torchdevice tests", "", ["tests"]),
        ("tests --torchdevice", "", ["tests"]),
        ("a --torchdevice b -q c", "", ["a", "b", "c"]),
        ("--torchdevice -- tests", "", ["tests"]),
        ("--torchdevice=mps tests", "mps", ["tests"]),
        ("--torchdevice --torchdevice=cpu", "cpu", []),
        ("-- --torchdevice", None, ["--torchdevice"]),
    ],
)
def test_only_what_is_joined_is_the_target(pytester, words, value, files):
    config = pytester.parseconfig()
    options = config._parser.parse_known_args(words.split())
    assert (options.torchdevice, list(options.file_or_dir)) == (value, files)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--torchdevice=c!!"], "--torchdevice=c!! is not a device: give one such as "),
        (["--torchdevice=meta"], "--torchdevice=meta is not a device"),
        (["--torchdevice", "mps"], "'mps': to give a target, write --torchdevice=mps."),
        (["-o", "torchdevice=3!"], "torchdevice=3! in the command line is not a device"),
        (["--torchdevice-simulate=toaster"], "--torchdevice-simulate=toaster is not a value"),
        (["--torchdevice", "--torchdevice-report=a.pdf"], "--torchdevice-report=a.pdf "),
        (["--torchdevice-report=a.txt"], "--torchdevice-report=a.txt: there is nothing to report"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_usage_error_is_one_sentence(pytester, arguments, complaint):
    pytester.makepyfile("def test_a(): pass")
    result = inline(pytester, *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    [line] = [line for line in result.stderr.lines if line]
    assert line.startswith("ERROR: ") and complaint in line


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (["--torchdevice=ipu"], "--torchdevice=ipu"),
        (["-o", "torchdevice=ipu"], "torchdevice=ipu in the command line"),
        (["--torchdevice"], "TORCHDEVICE_TARGET='hpu'"),
    ],
)
def test_a_target_that_is_not_there_is_named_by_its_place(pytester, monkeypatch, arguments, place):
    monkeypatch.setenv("TORCHDEVICE_TARGET", "hpu")
    result = inline(pytester, *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    [line] = [line for line in result.stderr.lines if line]
    assert line.startswith(f"ERROR: {place} is not on this machine, ")


def test_an_error_in_the_ini_file_names_it(pytester):
    pytester.makeini("[pytest]\ntorchdevice = 3!")
    assert "torchdevice=3! in tox.ini is not a device" in inline(pytester).stderr.str()


@pytest.mark.parametrize("value", ["false", "off", "0", "no", "", "native"])
def test_the_ini_option_can_be_off(pytester, value):
    if value == "native":
        pytester.makepyprojecttoml("[tool.pytest]\ntorchdevice = false")
    else:
        pytester.makeini(f"[pytest]\ntorchdevice = {value}")
    pytester.makepyfile("def test_a(): pass")
    result = inline(pytester)
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("torchdevice: *")


@pytest.mark.parametrize(
    ("marker", "complaint"),
    [
        ("(target='c!!')", "target='c!!' is not a device"),
        ("(polcy='force')", "'polcy' is no setting of redirection: give target, policy, "),
        ("(policy='gentle')", "policy='gentle' is not a value that it can have"),
        ("(enabled='no')", "enabled is True or False, not 'no'"),
        ("('cpu', 'mps')", "takes one target"),
        ("('cpu', target='mps')", "takes one target"),
    ],
)
def test_a_wrong_marker_is_found_at_collection(pytester, marker, complaint):
    pytester.makepyfile(
        f"import pytest\n@pytest.mark.torchdevice{marker}\ndef test_marked(): raise SystemExit"
    )
    result = inline(pytester)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    [line] = [line for line in result.stderr.lines if line]
    assert "test_marked: " in line and complaint in line


# --- how it is loaded --------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["entry point", "-p"])
def test_the_entry_point_and_p_are_one_plugin(pytester, first):
    name = pytest_plugin.__name__
    manager = pytester.parseconfig("-p", "no:torchdevice").pluginmanager
    if manager.get_plugin(name) is not None:
        manager.unregister(name=name)
    register = [
        lambda: manager.register(pytest_plugin.entry_point, "entry"),
        lambda: manager.import_plugin(name),
    ]
    for step in register if first == "entry point" else reversed(register):
        step()
    assert manager.get_plugin(name) is pytest_plugin


def test_importing_the_plugin_does_not_import_torch():
    code = "import sys, torchdevice_mode.pytest_plugin; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_session_inside_another_gives_back_its_redirection(pytester):
    pytester.makepyfile(
        """
        import torch, torchdevice_mode._session
        def test_inner():
            assert torchdevice_mode._session.enabled_settings().target == "cpu"
        """
    )
    torchdevice_mode.enable(policy="explicit")
    try:
        before = _session.enabled_settings(), _own_variables()
        inline(pytester, "--torchdevice=cpu").assert_outcomes(passed=1)
        assert (_session.enabled_settings(), _own_variables()) == before
    finally:
        torchdevice_mode.disable()


def _own_variables():
    return {name: text for name, text in os.environ.items() if "TORCH" in name}

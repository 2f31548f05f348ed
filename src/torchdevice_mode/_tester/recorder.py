"""A plugin of pytest that lists the files of a suite, or runs one of them and tells what happens.

`torchdevice test` gives it to pytest by `-p`. The command line stays the user's own, so that
root folder, ini file, conftest files and options are those of the suite; what is not of the file
to run is left out while pytest collects.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from .events import events
from .stream import Task, Writer, cut, describe, described

# A suite may have thousands of failures, and all are kept.
_LONGEST = 12_000
_writer = Writer()
_task = Task.from_environment()
_errors: dict[str, dict[str, str]] = {}
_files: set[str] = set()

if hasattr(signal, "SIGUSR2"):
    # Asked for when the time is up. A copy of the file, as pytest puts another in its place.
    faulthandler.register(signal.SIGUSR2, file=os.dup(2), all_threads=True)


_writer.put("process", pid=os.getpid())


# --- options that would spoil it ---------------------------------------------------------------

# The same for all processes, so that runs differ in redirection only; and as whoever repeats a
# test has to give it.
_SEED = 0
# What failed last, and so on, is for the user's own runs to note.
_NOTED = ("cache/lastfailed", "cache/nodeids", "cache/stepwise", "randomly_seed")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, object, object]:
    # All processes would write to one file, and what one of them covers tells nothing.
    early_config.known_args_namespace.cov_source = []
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, object, object]:
    option = config.option
    # Every file has a process of its own already, and a crash is best told from there.
    if getattr(option, "numprocesses", None) is not None or getattr(option, "tx", None):
        option.numprocesses, option.dist, option.tx = 0, "no", []
    # Results of all tests are compared, and the processes must not write to the same file.
    option.maxfail = 0
    option.stepwise = option.stepwise_skip = option.stepwise_reset = False
    option.continue_on_collection_errors = True
    option.usepdb = False
    if getattr(option, "randomly_seed", None) == "default":
        option.randomly_seed = _SEED
    if getattr(option, "xmlpath", None):
        option.xmlpath = None
    if getattr(option, "basetemp", None):
        parent = Path(option.basetemp)
        parent.mkdir(parents=True, exist_ok=True)
        option.basetemp = parent / _task.name
    return (yield)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    cache = getattr(config, "cache", None)
    if cache is None:
        return
    put = cache.set

    def put_others(key: str, value: object) -> None:
        if key not in _NOTED:
            put(key, value)

    cache.set = put_others


# --- collection --------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    config = session.config
    if _task.unit:
        config.args = [word for word in config.args if _leads_to(word, Path(_task.unit), config)]
        return
    words = list(getattr(config.option, "file_or_dir", None) or [])
    ini = str(config.inipath) if config.inipath is not None else ""
    shuffled = getattr(config.option, "randomly_seed", None) == _SEED
    _writer.put(
        "session",
        root=str(config.rootpath),
        ini=ini,
        words=[str(w) for w in words],
        options=[f"--randomly-seed={_SEED}"] if shuffled else [],
    )
    config.args = list(dict.fromkeys(_file_of(word) for word in config.args))


def _file_of(word: str) -> str:
    """The file of `file::class::test[parameters]`."""
    return word.partition("[")[0].partition("::")[0] if "::" in word else word


def _leads_to(word: str, file: Path, config: pytest.Config) -> bool:
    """Whether a word of the command line is the file, a part of it, or a folder above."""
    named = _file_of(word)
    path = Path(os.path.abspath(config.invocation_params.dir / named))  # noqa: PTH100
    if config.getoption("pyargs", False) and not path.exists():
        try:
            spec = importlib.util.find_spec(named)
        except (ImportError, ValueError, AttributeError):
            return True
        if spec is None or spec.origin is None:
            return True
        origin = Path(spec.origin)
        path = origin.parent if spec.submodule_search_locations is not None else origin
    real = Path(os.path.realpath(path))
    return path in (file, *file.parents) or real in (file, *file.parents)


@pytest.hookimpl(tryfirst=True)
def pytest_ignore_collect(collection_path: Path) -> bool | None:
    if not _task.unit:
        return None
    unit = Path(_task.unit)
    if collection_path == unit or collection_path in unit.parents:
        return None
    # The package that the file is in, which older versions of pytest collect by this file.
    if collection_path.name == "__init__.py" and collection_path.parent in unit.parents:
        return None
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_make_collect_report(collector: pytest.Collector) -> pytest.CollectReport | None:
    _writer.put("collecting", what=collector.nodeid)
    is_file = isinstance(collector, pytest.File) and not isinstance(collector, pytest.Package)
    if _task.unit or not is_file:
        return None
    # Listed, and not imported: what an import does must not end the list.
    path = str(collector.path)
    if path not in _files:
        _files.add(path)
        _writer.put("unit", name=path)
    return pytest.CollectReport(collector.nodeid, "passed", None, [])


def pytest_exception_interact(
    node: pytest.Item | pytest.Collector, call: pytest.CallInfo[Any], report: Any
) -> None:
    if isinstance(node, pytest.Collector) and call.excinfo is not None:
        error = call.excinfo.value
        # pytest's own says that there was one, and holds the one that there was.
        cause = error.__cause__ or error.__context__
        _errors[node.nodeid] = describe(cause or error, text=report.longreprtext)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.passed:
        return
    if report.skipped:
        reason = _reason(report)
        _writer.put("result", test=report.nodeid, outcome="skipped", reason=reason, target="file")
        return
    error = _errors.get(report.nodeid)
    error = error or described(report.longreprtext)
    _writer.put("result", test=report.nodeid, outcome="error", error=error, target="file")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, object, object]:
    result = yield
    if _task.unit:
        left_out = [item for item in items if _task.leaves_out(item.nodeid)]
        if left_out:
            items[:] = [item for item in items if not _task.leaves_out(item.nodeid)]
            config.hook.pytest_deselected(items=left_out)
        _writer.put("collected", tests=[item.nodeid for item in items])
    return result


# --- tests -------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logstart(nodeid: str) -> None:
    _writer.put("start", test=nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and call.excinfo is not None:
        # Kept by the report, which plugins send from one process to another.
        vars(report)["torchdevice_error"] = describe(call.excinfo.value, text=report.longreprtext)
    return report


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    fields: dict[str, Any] = {"seconds": report.duration}
    outcome: str = report.outcome
    if hasattr(report, "wasxfail"):
        outcome = {"skipped": "xfailed", "passed": "xpassed"}.get(outcome, outcome)
    if outcome == "failed":
        told = vars(report).get("torchdevice_error") or described(report.longreprtext)
        printed = "\n".join(f"--- {title} ---\n{text}" for title, text in report.sections if text)
        fields["error"] = told | {
            "text": cut(f"{told.get('text', '')}\n{printed}".strip(), _LONGEST)
        }
        if report.when != "call":
            outcome = "error"
    elif outcome == "skipped":
        fields["reason"] = _reason(report)
    elif outcome == "rerun":
        outcome = "again"
    elif outcome not in ("passed", "xfailed", "xpassed"):
        return
    _writer.put("result", test=report.nodeid, outcome=outcome, **fields)


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    place = report.longrepr
    text = str(place[2]) if isinstance(place, tuple) else report.longreprtext
    return text.removeprefix("Skipped: ")[:500]


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish(nodeid: str) -> None:
    _writer.put("finish", test=nodeid)


# --- the end -----------------------------------------------------------------------------------


def pytest_keyboard_interrupt(excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    _writer.put("note", text=f"{excinfo.typename}: {excinfo.value}".rstrip(": "))


def pytest_internalerror(excrepr: object) -> None:
    _writer.put("note", text=f"pytest broke: {str(excrepr).strip().splitlines()[-1]}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    _writer.put("end", events=events())

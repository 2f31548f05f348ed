"""The command `torchdevice test`, from its options to its exit code."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any

from .. import __version__
from .._command_settings import choose
from .._printing import print_out
from .._run import Program
from .._words import counted, printable
from . import process
from .compare import Comparison, compare
from .document import Session, document
from .junit import junit
from .page import page
from .process import Stopped, said
from .progress import progress_on
from .results import Store, UnitResult
from .runner import Listed, Runner, environment_for
from .stream import Result
from .suite import PLAIN, Run, Suite, SuiteError, options_of
from .text import headline, is_empty, markdown, text

__all__ = ["DEFAULT_RESULTS", "REPORTS", "test"]

DEFAULT_RESULTS = ".torchdevice_test"
_INTERRUPTED = 130
_MOST_REPEATED = 200

REPORTS: dict[str, Callable[[dict[str, Any], bool, str], str]] = {
    ".json": lambda told, strict, results: json.dumps(told, indent=2) + "\n",
    ".xml": lambda told, strict, results: junit(told, strict=strict),
    ".md": lambda told, strict, results: markdown(told),
    ".html": lambda told, strict, results: page(told, results=results),
}
"""Ending of a file's name to what makes a report of that kind."""


@dataclass(slots=True)
class _State:
    """What is known so far."""

    results: dict[str, dict[str, UnitResult]]
    facts: dict[str, str] = field(default_factory=dict)
    listed: Listed = field(default_factory=lambda: Listed((), ""))
    interrupted: bool = False


def test(options: Mapping[str, Any], program: Program | None) -> int:
    """Run a suite plain and redirected, and compare.

    Args:
        options: Of the command, by name.
        program: What follows them: the test runner and its arguments.

    Returns:
        0 where no test newly fails, 1 where one does, 2 where there are no tests, 130 where the
        user ended it.

    Raises:
        TorchDeviceError: If an option, the suite, or the folder of results will not do.
    """
    began = monotonic()
    suite = Suite.read(program)
    _, run_settings, _ = choose(options, os.environ, Path.cwd())
    jobs, limit, retries = _numbers(options)
    for path in options["reports"] or ():
        if Path(path).suffix not in REPORTS:
            raise SuiteError(
                f"{path!r} names no kind of report: give a file that ends in {', '.join(REPORTS)}."
            )
    runs = _runs(options, run_settings.simulate)
    store = Store(Path(options["results"]).absolute())
    manifest = {
        "command": suite.shown,
        "folder": os.getcwd(),  # noqa: PTH109
        "runs": {run.name: run.options for run in runs},
        "python": sys.version,
    }
    strict, quiet = bool(options["strict"]), bool(run_settings.quiet)
    with closing(store):
        store.begin(manifest, resume=bool(options["resume"]))
        runner = Runner(suite, store, limit, environment_for(jobs, os.environ))
        state = _run(runner, runs, jobs=jobs, retries=retries, quiet=quiet)
        comparisons = _compare(runs, state)
        session = Session(
            suite=runner.suite,
            listed=state.listed,
            runs=runs,
            facts=state.facts,
            results=state.results,
            comparisons=comparisons,
            folder=store.folder,
            seconds=monotonic() - began,
            interrupted=state.interrupted,
        )
        code = _exit_code(state, comparisons, strict=strict)
        told = document(session, version=__version__, exit_code=code)
        _write(told, store.folder, options["reports"] or (), strict=strict)
    _say(told, store.folder, quiet=quiet)
    return code


def _run(runner: Runner, runs: Sequence[Run], *, jobs: int, retries: int, quiet: bool) -> _State:
    """Run everything, or what there is time for until the user ends it."""
    state = _State({run.name: {} for run in runs})
    with _ended_like_interrupted():
        try:
            _prepare(runner, runs, state, quiet)
            _run_all(runner, runs, state, jobs, quiet)
            for number in range(retries):
                _repeat(runner, runs, state, number, jobs=jobs, quiet=quiet)
        except (KeyboardInterrupt, Stopped):
            runner.stop.set()
            state.interrupted = True
        except OSError as error:
            raise SuiteError(
                f"the tests cannot go on ({error.strerror or error}): put that right, and go on "
                f"with --resume."
            ) from error
    return state


def _say(told: dict[str, Any], folder: Path, *, quiet: bool) -> None:
    """Print what came out; where that is nothing, it is an error."""
    shown = shlex.join(told["command"])
    outcomes = [run["outcomes"] for run in told["runs"]]
    if is_empty(told) and not any(outcomes):
        raise SuiteError(f"there are no tests: {shown} collects none.")
    if is_empty(told) or not quiet:
        print_out(printable(text(told)))
    if is_empty(told) and any("not run" in one for one in outcomes):
        raise SuiteError(f"no test was run: {shown} only collects them.")
    if is_empty(told):
        raise SuiteError(f"no test could be run: {shown} collects none without an error.")
    files = f"reports are in {folder} (report.html, .md, .json, .xml)"
    print_out(printable(f"torchdevice: {headline(told) if quiet else files}"))


def _note(words: str) -> None:
    """Say what goes on, where somebody listens."""
    with suppress(OSError, ValueError):
        print(words, file=sys.stderr, flush=True)


def _numbers(options: Mapping[str, Any]) -> tuple[int, float, int]:
    jobs = options["jobs"] if options["jobs"] is not None else max(1, (os.cpu_count() or 1) // 2)
    for name, value, least in (
        ("--jobs", jobs, 1),
        ("--timeout", options["timeout"], 1),
        ("--retries", options["retries"], 0),
    ):
        if value < least:
            raise SuiteError(f"{name} {value} is too small: give {least} or more.")
    return jobs, float(options["timeout"]), options["retries"]


def _runs(options: Mapping[str, Any], simulate: str | None) -> list[Run]:
    chosen = options_of(options)
    runs = [Run(PLAIN), Run("redirected", chosen)]
    if simulate is not None:
        runs.append(Run("simulated", (f"--simulate={simulate}", *chosen)))
    return runs


# --- before the tests --------------------------------------------------------------------------

# What a run makes of the machine, told by a program that runs like its tests.
_LOOK = (
    "import json, torch, torchdevice_mode as t; "
    "print(json.dumps([torch.__version__, t.target() or '']))"
)


def _prepare(runner: Runner, runs: Sequence[Run], state: _State, quiet: bool) -> None:
    for run in runs:
        if not run.is_plain:
            state.facts |= _look(runner, run)
    state.listed = runner.list_units(runs[0])
    listed = state.listed
    runner.suite = replace(runner.suite, words=listed.words, added=listed.options)
    if not quiet:
        targets = ", ".join(f"{run.name} to {state.facts[run.name]}" for run in runs[1:])
        files = counted(len(listed.units), "file")
        _note(f"torchdevice: {files} of tests, plain and {targets}")


def _look(runner: Runner, run: Run) -> dict[str, str]:
    """The version of torch and the target of a run; what is wrong with it shows here, and once."""
    log = runner.store.log(run.name, "look")
    log.unlink(missing_ok=True)
    process.run(
        run.command(["-c", _LOOK]),
        environ=run.environ(runner.environ),
        log=log,
        limit=runner.limit,
        stop=runner.stop,
    )
    words = said(log)
    try:
        torch, target = json.loads(words.splitlines()[-1])
    except (ValueError, IndexError, TypeError):
        last = words.splitlines()[-1] if words else "nothing was said"
        problem = last.removeprefix("torchdevice: error: ")
        raise SuiteError(f"the {run.name} run cannot begin: {problem}") from None
    return {"torch": torch, run.name: target}


# --- the tests ---------------------------------------------------------------------------------


def _run_all(runner: Runner, runs: Sequence[Run], state: _State, jobs: int, quiet: bool) -> None:
    work = []
    for unit in state.listed.units:
        for run in runs:
            kept = runner.store.load(run.name, unit)
            if kept is not None:
                state.results[run.name][unit] = kept
            else:
                work.append((run, unit))
    with progress_on(sys.stderr, len(work), quiet=quiet) as progress:

        def done(result: UnitResult) -> None:
            state.results[result.run][result.unit] = result
            progress.done(result)

        runner.run_all(work, jobs=jobs, done=done)


def _compare(runs: Sequence[Run], state: _State) -> list[Comparison]:
    plain = state.results[PLAIN]
    return [compare(run.name, plain, state.results[run.name]) for run in runs[1:]]


def _repeat(
    runner: Runner, runs: Sequence[Run], state: _State, number: int, *, jobs: int, quiet: bool
) -> None:
    """Run once more what differs, alone: what does not differ then is flaky."""
    wanted: dict[tuple[str, str], list[str]] = {}
    for comparison in _compare(runs, state):
        changes = [c for c in comparison.changes if c.category in _REPEATED]
        for change in changes[:_MOST_REPEATED]:
            name = PLAIN if change.category == "newly passing" else comparison.run
            result = state.results[name][change.unit].results.get(change.test)
            # One that is resumed may have been repeated before.
            is_test = result is not None and result.target != "file"
            if result is not None and is_test and len(result.again) <= number:
                tests = wanted.setdefault((name, change.unit), [])
                if change.test not in tests:
                    tests.append(change.test)
    if not wanted:
        return
    if not quiet:
        number_of = sum(map(len, wanted.values()))
        verb = "differs" if number_of == 1 else "differ"
        _note(f"torchdevice: repeating {counted(number_of, 'test')} that {verb}")
    by_name = {run.name: run for run in runs}

    def done(repeated: tuple[Run, str, dict[str, Result]]) -> None:
        run, unit, results = repeated
        kept = state.results[run.name][unit]
        for test_, result in results.items():
            kept.results[test_].again.append(result.outcome)
        runner.store.save(kept)

    work = [(by_name[name], unit, tests) for (name, unit), tests in wanted.items()]
    runner.repeat_all(work, jobs=jobs, done=done)


_REPEATED = ("newly failing", "newly passing", "only redirected, failing")


def _exit_code(state: _State, comparisons: Sequence[Comparison], *, strict: bool) -> int:
    if state.interrupted:
        return _INTERRUPTED
    units = [unit for units in state.results.values() for unit in units.values()]
    results = [one for unit in units for one in unit.results.values()]
    # A file that cannot be collected has a result, and is no test.
    if not any(one.target != "file" and one.outcome != "not run" for one in results):
        return 2
    counted = ("newly failing", "only redirected, failing") if strict else ("newly failing",)
    return int(any(one.count(category) for one in comparisons for category in counted))


# --- after the tests ---------------------------------------------------------------------------


def _write(told: dict[str, Any], folder: Path, reports: Sequence[str], *, strict: bool) -> None:
    places = [folder / f"report{suffix}" for suffix in REPORTS] + [Path(path) for path in reports]
    for path in places:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            results = os.path.relpath(folder, path.parent)
            words = REPORTS[path.suffix](told, strict, results)
            path.write_text(words, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            # The results are there in any case, and --resume writes reports of them again.
            print(
                f"torchdevice: {path} cannot be written ({error.strerror or error}): give another "
                f"place for it, with --resume.",
                file=sys.stderr,
            )


class _ended_like_interrupted:  # noqa: N801 - used like a function
    """Has the signal that asks a process to end do what Ctrl-C does, so that children end too."""

    def __enter__(self) -> None:
        self._before: Any = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._interrupt)

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    @staticmethod
    def _interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

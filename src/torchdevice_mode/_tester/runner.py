"""Runs the units of a suite, each in processes of its own, several at a time.

A crash or a time-out ends a process, not the unit: what is left of its tests runs in another one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from . import process
from .process import Ended, Stopped, said
from .results import Store, UnitResult, fingerprint, slug
from .stream import Error, Folded, Result, Task, fold
from .suite import Run, Suite, SuiteError

__all__ = ["AFTER", "Listed", "Runner"]

AFTER = "::(after the tests)"
"""Ends the name of what is no test: the end of a process whose tests have all run."""

# A file each of whose tests crashes would take a process for each.
_MOST_CRASHES = 10
_MOST_TIME_OUTS = 2
# pytest's exit code where arguments name what is not there.
_USAGE = 4
_TAIL = 6_000
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Listed:
    """What a suite consists of.

    Attributes:
        units: Files, or names for unittest, in the order of the suite.
        root: The folder that names of tests begin at.
        words: Arguments that name files and tests.
        options: What a user adds to the command line, to repeat a test as it ran here.
    """

    units: tuple[str, ...]
    root: str
    words: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(slots=True)
class Runner:
    """Runs a suite.

    Attributes:
        suite: What.
        store: Where results are kept.
        limit: How many seconds a process may run.
        environ: The environment of all of them.
        stop: Set to end everything.
    """

    suite: Suite
    store: Store
    limit: float = 600.0
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    stop: threading.Event = field(default_factory=threading.Event)

    def list_units(self, run: Run) -> Listed:
        """Ask the test runner for the files of the suite, none of which it imports.

        Raises:
            SuiteError: If it ends before it has told.
            Stopped: If everything is to stop.
        """
        log, ended, folded = self._process(run, "", Task(name="list"))
        session = folded.told.get("session", [{}])[0]
        units = tuple(dict.fromkeys(one["name"] for one in folded.told.get("unit", [])))
        # pytest's own codes for what keeps it from collecting; 5 is for no tests.
        if not folded.ended or ended.code in (2, 3, 4):
            raise SuiteError(
                f"{self.suite.runner} could not collect the tests ({_complaint(log, ended)}): "
                f"{log} has all that it said."
            )
        told = (tuple(session.get(name, ())) for name in ("words", "options"))
        return Listed(units, session.get("root", ""), *told)

    def run_all(
        self,
        work: Sequence[tuple[Run, str]],
        *,
        jobs: int,
        done: Callable[[UnitResult], None],
    ) -> None:
        """Run units, several at a time.

        Args:
            work: Runs and units, in the order to begin them.
            jobs: How many at a time.
            done: Called in this thread as each one ends, whose results are kept by then.

        Raises:
            KeyboardInterrupt: Of the user; the processes have ended then.
        """
        self._in_turn([partial(self.run_unit, *one) for one in work], jobs, done)

    def repeat_all(
        self,
        work: Sequence[tuple[Run, str, Sequence[str]]],
        *,
        jobs: int,
        done: Callable[[tuple[Run, str, dict[str, Result]]], None],
    ) -> None:
        """Run some tests of units again, those of each unit in a process of their own.

        Args:
            work: Runs, units, and names of tests.
            jobs: As for `run_all`.
            done: As for `run_all`; it is given results of the tests that ran.

        Raises:
            KeyboardInterrupt: As for `run_all`.
        """
        self._in_turn([partial(self._repeat, *one) for one in work], jobs, done)

    def _in_turn(
        self, calls: Sequence[Callable[[], _T]], jobs: int, done: Callable[[_T], None]
    ) -> None:
        with ThreadPoolExecutor(jobs) as pool:
            pending: set[Future[_T]] = {pool.submit(call) for call in calls}
            try:
                while pending:
                    # Again and again: waiting without end hears of no signals on some systems.
                    finished, pending = wait(pending, 0.5, FIRST_COMPLETED)
                    for future in finished:
                        done(future.result())
            except BaseException:
                self.stop.set()
                for future in pending:
                    future.cancel()
                raise

    def run_unit(self, run: Run, unit: str) -> UnitResult:
        """Run one unit, in as many processes as it takes, and keep its results."""
        self.store.log(run.name, unit).unlink(missing_ok=True)
        result = UnitResult(unit, run.name, source=fingerprint(unit))
        result.log = str(self.store.log(run.name, unit).relative_to(self.store.folder))
        crashes = time_outs = 0
        while True:
            task = Task(unit, skip=frozenset(result.results), name=f"{run.name}-{slug(unit)}")
            log, ended, folded = self._process(run, unit, task)
            blamed = _take(result, folded, ended, log)
            crashes += 1
            time_outs += ended.timed_out
            goes_on = blamed and crashes < _MOST_CRASHES and time_outs < _MOST_TIME_OUTS
            left = [name for name in folded.collected or [] if name not in result.results]
            if not goes_on or not left:
                break
        for name in left:
            result.results[name] = Result("not run", reason=result.problem)
        self.store.save(result)
        return result

    def _repeat(
        self, run: Run, unit: str, tests: Sequence[str]
    ) -> tuple[Run, str, dict[str, Result]]:
        task = Task(unit, only=frozenset(tests), name=f"{run.name}-{slug(unit)}")
        log, ended, folded = self._process(run, unit, task)
        again = UnitResult(unit, run.name)
        _take(again, folded, ended, log)
        return run, unit, {name: one for name, one in again.results.items() if name in tests}

    def _process(self, run: Run, unit: str, task: Task) -> tuple[Path, Ended, Folded]:
        if self.stop.is_set():
            raise Stopped
        stream = self.store.stream(run.name, unit)
        log = self.store.log(run.name, unit)
        task_file = stream.with_suffix(".task")
        task.write(task_file)
        ended = process.run(
            self.suite.command(run),
            environ=self.suite.environ(run, task_file, stream, self.environ),
            log=log,
            limit=self.limit,
            stop=self.stop,
        )
        folded = fold(stream)
        for file in (stream, task_file):
            file.unlink(missing_ok=True)
        return log, ended, folded


def _take(result: UnitResult, folded: Folded, ended: Ended, log: Path) -> bool:
    """Add what a process told to a unit's results.

    Returns:
        Whether it ended in a test, so that the others can run without that.
    """
    result.results |= folded.results
    result.seconds += ended.seconds
    for kind, count in folded.events.items():
        result.events[kind] = result.events.get(kind, 0) + count
    if folded.ended and not folded.running and not ended.timed_out and ended.code >= 0:
        result.problem = folded.note
        if ended.code == _USAGE and not folded.results and not result.problem:
            result.problem = _complaint(log, ended)  # such as a test that is not in the file
        return False
    how = folded.note or f"the process {ended.how}"
    result.problem = how
    outcome = "timeout" if ended.timed_out else "crashed"
    error = Error(_KINDS[outcome], how, "", said(log, most=_TAIL))
    if folded.running:
        seconds = folded.results.get(folded.running, Result("passed")).seconds
        result.results[folded.running] = Result(outcome, seconds, error)
        return True
    if folded.collected is None:
        # It came to no test: a file that ends the process when it is imported, for one.
        name = folded.collecting or _short(result.unit)
        result.results[name] = Result(outcome, error=error, target="file")
    else:
        name = f"{_short(result.unit)}{AFTER}"
        result.results[name] = Result(outcome, error=error, target="file")
    return False


def _complaint(log: Path, ended: Ended) -> str:
    """The line of a process's output that says what was wrong."""
    if ended.code == 0:
        return "it ended before it came to them"  # --help, --version and the like
    lines = [line.strip() for line in said(log).splitlines() if line.strip()]
    errors = [
        line
        for line in lines
        if line.startswith("ERROR: ") or ("rror" in line and "::" not in line)
    ]
    found = next(iter(reversed(errors or lines)), "")
    return found.removeprefix("E ").removeprefix("ERROR:").strip().rstrip(".") or ended.how


_KINDS = {"timeout": "Timeout", "crashed": "Crash"}


def _short(unit: str) -> str:
    try:
        return Path(unit).relative_to(Path.cwd()).as_posix()
    except ValueError:
        return unit


def environment_for(jobs: int, environ: Mapping[str, str]) -> dict[str, Any]:
    """The environment of processes several of which run at once: they share the machine's cores."""
    shared = dict(environ)
    cores = os.cpu_count() or 1
    if jobs > 1:
        shared.setdefault("OMP_NUM_THREADS", str(max(1, cores // jobs)))
    return shared

"""The results as one document, which all reports are made of; docs/testing.md tells its fields."""

from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .compare import Change, Comparison
from .results import UnitResult
from .runner import AFTER, Listed
from .suite import Run, Suite
from .text import one_line

__all__ = ["FORMAT", "VERSION", "Session", "document", "shown_unit"]

FORMAT = "torchdevice-test"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Session:
    """What is known of the whole.

    Attributes:
        suite: What was run.
        listed: What it consists of.
        runs: How it was run.
        facts: `torch`, and the target by run.
        results: By run and unit.
        comparisons: Each run against the plain one.
        folder: Where results and logs are.
        seconds: How long it took.
        interrupted: Whether the user ended it early.
    """

    suite: Suite
    listed: Listed
    runs: Sequence[Run]
    facts: Mapping[str, str]
    results: Mapping[str, Mapping[str, UnitResult]]
    comparisons: Sequence[Comparison]
    folder: Path
    seconds: float
    interrupted: bool


def document(session: Session, *, version: str, exit_code: int) -> dict[str, Any]:
    """The document, of what JSON can say.

    Args:
        session: What is known.
        version: Of torchdevice.
        exit_code: Of the command.

    Returns:
        The document.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "torchdevice": version,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": sys.version.split()[0],
        "platform": sys.platform,
        "torch": session.facts.get("torch", ""),
        "command": session.suite.shown,
        "folder": os.getcwd(),  # noqa: PTH109
        "results": str(session.folder),
        "files": len(session.listed.units),
        "seconds": round(session.seconds, 3),
        "interrupted": session.interrupted,
        "exit_code": exit_code,
        "runs": [_run(session, run) for run in session.runs],
        "comparisons": [_comparison(session, one) for one in session.comparisons],
    }


def shown_unit(unit: str) -> str:
    """A file as it is seen from here, a name as it is."""
    try:
        return Path(unit).relative_to(Path.cwd()).as_posix()
    except ValueError:
        return unit


def _run(session: Session, run: Run) -> dict[str, Any]:
    units = session.results.get(run.name, {})
    outcomes: Counter[str] = Counter()
    events: Counter[str] = Counter()
    for unit in units.values():
        outcomes.update(result.outcome for result in unit.results.values())
        events.update(unit.events)
    words = ["-m", session.suite.runner, *session.suite.arguments]
    return {
        "run": run.name,
        "target": session.facts.get(run.name, ""),
        "command": shlex.join(run.shown(words)),
        "files": len(units),
        "seconds": round(sum(unit.seconds for unit in units.values()), 3),
        "outcomes": dict(sorted(outcomes.items())),
        "events": dict(sorted(events.items())),
        "problems": [
            {"file": shown_unit(unit.unit), "problem": problem, "log": unit.log}
            for unit in units.values()
            for problem in _problems(unit)
        ],
    }


def _problems(unit: UnitResult) -> list[str]:
    """What kept tests of a unit from running."""
    problems = [unit.problem] if unit.problem else []
    for name, result in unit.results.items():
        if result.target == "file" and result.outcome == "error" and result.error is not None:
            error = f"{result.error.type}: {one_line(result.error.message)}".strip(": ")
            what = name.partition(" ")[0] if name.startswith("tearDown") else "tests did not run"
            problems.append(f"{what}: {error}")
    return problems


def _comparison(session: Session, comparison: Comparison) -> dict[str, Any]:
    run = next(run for run in session.runs if run.name == comparison.run)
    causes, number_of = [], {}
    for number, group in enumerate(comparison.groups, 1):
        first = group.changes[0]
        error = first.after.error
        for change in group.changes:
            number_of[change.test, change.unit] = number
        causes.append(
            {
                "cause": number,
                "category": group.category,
                "type": error.type if error else "",
                "message": error.message if error else first.after.reason,
                "place": error.place if error else "",
                "text": error.text if error else "",
                "tests": len(group.changes),
                "first": first.test,
                "repeat": _repeat(session, run, first),
                "log": _log(session, run, first),
            }
        )
    return {
        "run": comparison.run,
        "against": session.runs[0].name,
        "counts": comparison.counts,
        "causes": causes,
        "tests": [
            _test(session, run, change, number_of.get((change.test, change.unit)))
            for change in comparison.changes
        ],
    }


def _test(session: Session, run: Run, change: Change, cause: int | None) -> dict[str, Any]:
    told: dict[str, Any] = {
        "test": change.test,
        "file": shown_unit(change.unit),
        "category": change.category,
        "before": change.before.outcome,
        "after": change.after.outcome,
        "seconds": round(change.after.seconds, 3),
    }
    if cause is not None:
        told |= {"cause": cause, "repeat": _repeat(session, run, change)}
    failed_before = change.category in ("newly passing", "failing alike", "flaky")
    error = change.after.error or (change.before.error if failed_before else None)
    if error is not None:
        told["error"] = f"{error.type}: {error.message}".strip(": ")[:500]
    reason = change.after.reason or change.before.reason
    if reason:
        told["reason"] = reason
    again = change.after.again or change.before.again
    if again:
        told["again"] = again
    return told


def _repeat(session: Session, run: Run, change: Change) -> str:
    test = change.test
    if change.after.target == "file":
        test = test.removesuffix(AFTER) or change.unit
    words = session.suite.repeats(run, test, unit=change.unit, root=session.listed.root)
    return shlex.join(words)


def _log(session: Session, run: Run, change: Change) -> str:
    unit = session.results[run.name].get(change.unit)
    return unit.log if unit is not None else ""

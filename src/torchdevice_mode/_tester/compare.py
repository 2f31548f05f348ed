"""Compares two runs test by test. Pure: no file is read, and nothing is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .causes import Cause, cause_of
from .results import UnitResult
from .stream import Result

__all__ = ["CATEGORIES", "Change", "Comparison", "Group", "compare"]

CATEGORIES: dict[str, str] = {
    "newly failing": "passes on plain torch, fails redirected",
    "only redirected, failing": "skipped or absent on plain torch, runs redirected, and fails",
    "only redirected, passing": "skipped or absent on plain torch, runs redirected, and passes",
    "newly passing": "fails on plain torch, passes redirected",
    "failing with another error": "fails on both, each with an error of its own",
    "failing alike": "fails on both with the same error",
    "flaky": "differed at first, and not when it was repeated",
    "newly skipped": "runs on plain torch, and is skipped redirected",
    "vanished": "runs on plain torch, and is not collected redirected",
    "passing alike": "passes on both",
    "skipped alike": "skipped on both",
}
"""Category to what it means, the most important first."""

_ABSENT = Result("absent")


@dataclass(slots=True)
class Change:
    """One test in two runs.

    Attributes:
        test: Its name.
        unit: Its file, or for unittest the name that it was found by.
        category: One of `CATEGORIES`.
        before: Its result in the plain run.
        after: Its result in the other.
    """

    test: str
    unit: str
    category: str
    before: Result
    after: Result

    @property
    def is_failing(self) -> bool:
        """Whether the run is to answer for it: it fails, and not as plain torch does."""
        return self.category in (
            "newly failing",
            "only redirected, failing",
            "failing with another error",
        )


@dataclass(slots=True)
class Group:
    """Tests that fail for one cause.

    Attributes:
        cause: What they have in common.
        category: The most important of theirs.
        changes: The tests.
    """

    cause: Cause
    category: str
    changes: list[Change] = field(default_factory=list)


@dataclass(slots=True)
class Comparison:
    """A run against the plain one.

    Attributes:
        run: The name of the run.
        changes: Every test of the two.
        groups: Those that fail, by cause, the most important first.
    """

    run: str
    changes: list[Change]
    groups: list[Group]

    @property
    def counts(self) -> dict[str, int]:
        """How many tests there are of each category, in the order of `CATEGORIES`."""
        found = Counter(change.category for change in self.changes)
        return {name: found[name] for name in CATEGORIES if found[name]}

    def count(self, category: str) -> int:
        """How many tests there are of one."""
        return self.counts.get(category, 0)


def compare(
    run: str, plain: Mapping[str, UnitResult], other: Mapping[str, UnitResult]
) -> Comparison:
    """Compare two runs.

    Args:
        run: The name of the second.
        plain: Results of the first, by unit.
        other: Results of the second; units that it lacks are left out.

    Returns:
        What became of each test.
    """
    changes: list[Change] = []
    for unit, after in other.items():
        before = plain.get(unit)
        if before is not None:
            changes += _compare_unit(unit, before, after)
    order = {name: number for number, name in enumerate(CATEGORIES)}
    changes.sort(key=lambda change: order[change.category])
    return Comparison(run, changes, _grouped(changes, order))


def _compare_unit(unit: str, before: UnitResult, after: UnitResult) -> Iterable[Change]:
    whole = _failure_of_whole(after)
    passed = [test for test, one in before.results.items() if _passed(one)]
    stopped = whole is not None and any(not _has_run(after.results.get(one)) for one in passed)
    for test in dict.fromkeys([*before.results, *after.results]):
        one = before.results.get(test, _ABSENT)
        two = after.results.get(test, _ABSENT)
        if not _has_run(two) and whole is not None and _passed(one):
            # The file could not be collected, or its process did not come so far.
            two = whole
        elif stopped and two is whole and two.target == "file":
            continue  # told of its tests, and itself none
        if not _has_run(two) and (one.outcome == "not run" or one.target == "file"):
            continue
        if one is _ABSENT and two.failed and two.target == "file" and passed:
            # What prepares tests or cleans up after them is told of where it fails only.
            one = Result("passed", target="file")
        yield Change(test, unit, _category(one, two, unit), one, two)


def _has_run(result: Result | None) -> bool:
    return result is not None and result.outcome not in ("absent", "not run")


def _failure_of_whole(unit: UnitResult) -> Result | None:
    """Why tests of a unit did not run: the failure of something that is no test."""
    for result in unit.results.values():
        if result.failed and result.target == "file":
            return result
    return next((r for r in unit.results.values() if r.outcome in ("crashed", "timeout")), None)


def _passed(result: Result) -> bool:
    return result.outcome in ("passed", "xfailed", "xpassed")


def _category(one: Result, two: Result, unit: str) -> str:
    category = _first_category(one, two, unit)
    if category in ("newly failing", "newly passing", "only redirected, failing"):
        repeated = two if two.failed else one
        if "passed" in repeated.again:
            return "flaky"
    return category


def _first_category(one: Result, two: Result, unit: str) -> str:
    if _passed(one):
        if _passed(two):
            return "passing alike"
        if two.failed:
            return "newly failing"
        return "newly skipped" if two.outcome == "skipped" else "vanished"
    if one.failed:
        if two.failed:
            causes = [cause_of(result.error, unit) for result in (one, two)]
            alike = causes[0] == causes[1] and one.outcome == two.outcome
            return "failing alike" if alike else "failing with another error"
        if _passed(two):
            return "newly passing"
        return "newly skipped" if two.outcome == "skipped" else "vanished"
    if _passed(two):
        return "only redirected, passing"
    if two.failed:
        return "only redirected, failing"
    return "skipped alike"


def _grouped(changes: Iterable[Change], order: Mapping[str, int]) -> list[Group]:
    groups: dict[Cause, Group] = {}
    for change in changes:
        if change.is_failing:
            cause = cause_of(change.after.error, change.unit)
            # Sorted by now, so that the first is the most important.
            group = groups.setdefault(cause, Group(cause, change.category))
            group.changes.append(change)
    return sorted(groups.values(), key=lambda g: (order[g.category], -len(g.changes)))

"""What happened at each line, as it is shown to a reader."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._model import Report, ReportEntry

__all__ = ["by_line"]


def by_line(report: Report) -> dict[tuple[str, int], list[ReportEntry]]:
    """The events of each line of each file, the busiest first.

    Those that differ in the function alone are one: a comprehension is a function to Python, and
    to its reader a part of the line.
    """
    found: dict[tuple[str, int], dict[tuple[str, ...], ReportEntry]] = {}
    for entry in report.events:
        told = found.setdefault((entry.file, entry.line), {})
        what = (entry.kind, entry.asked, entry.given, entry.reason)
        told[what] = _sum(told[what], entry) if what in told else entry
    return {line: sorted(told.values(), key=lambda e: -e.count) for line, told in found.items()}


def _sum(one: ReportEntry, other: ReportEntry) -> ReportEntry:
    return replace(
        one,
        count=one.count + other.count,
        moved=one.moved + other.moved,
        seconds=one.seconds + other.seconds,
    )

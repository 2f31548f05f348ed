"""The summary at the end of `torchdevice run`: ledger entries as a few lines of text."""

from __future__ import annotations

import linecache
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from ._kinds import KINDS, PROFILED, kind_of
from ._ledger import Entry, Site
from ._words import cost, counted, place_of

__all__ = ["in_words", "render"]

_LONGEST_SOURCE = 60
_DEAREST = 2


def render(
    entries: Sequence[Entry],
    *,
    target: str,
    folder: str = "",
    busiest: int = 5,
    unreported: int = 0,
    source_line: Callable[[str, int], str] = linecache.getline,
) -> str:
    """Say what was redirected: totals by kind, then the busiest and dearest call sites.

    Args:
        entries: What the ledger counted.
        target: The device that requests went to.
        folder: Files under it are named relative to it, where that is shorter.
        busiest: How many call sites to list.
        unreported: How many other processes left no counts.
        source_line: Gives a line of a file as text; empty where it cannot be read.

    Returns:
        Lines, each begun with "torchdevice: " or indented below one; ends without a newline.
    """
    missing = _missing(unreported)
    entries = [entry for entry in entries if entry.site.kind not in PROFILED]
    if not entries:
        return "\n".join([f"torchdevice: nothing was redirected (target {target})", *missing])
    ordered = sorted(entries, key=lambda entry: -entry.count)
    shown = _worth_showing(ordered, busiest)
    rows = [
        (
            f"{entry.count:,}x",
            place_of(entry.site.file, entry.site.line, folder),
            f"{entry.site.asked} -> {entry.site.given}{_cost(entry)}",
            _source(entry.site, source_line),
        )
        for entry in shown
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"torchdevice: {_totals(entries)}, target {target}"]
    for count, place, change, source in rows:
        columns = f"{count:>{widths[0]}}  {place:<{widths[1]}}  {change:<{widths[2]}}  {source}"
        lines.append(f"  {columns}".rstrip())
    rest = [entry for entry in ordered if entry not in shown]
    if rest:
        sites = counted(len(rest), "call site")
        lines.append(f"  and {sum(entry.count for entry in rest):,} more at {sites}")
    return "\n".join([*lines, *missing])


def _worth_showing(ordered: Sequence[Entry], most: int) -> list[Entry]:
    """The busiest, and among them those that cost most, however seldom they were passed.

    Lines that name no accelerator come last: they are many, and there is nothing to change in them.
    """
    costly = [entry for entry in ordered if _cost(entry)]
    dearest = sorted(costly, key=lambda entry: (-entry.seconds, -entry.moved))[:_DEAREST]
    others = sorted((e for e in ordered if e not in dearest), key=_names_no_accelerator)
    chosen = [*dearest, *others][:most]
    return [entry for entry in ordered if entry in chosen]


def _names_no_accelerator(entry: Entry) -> bool:
    asked = entry.site.asked.partition(":")[0]
    return entry.site.kind == "redirection" and asked in ("no device", "cpu")


def _missing(unreported: int) -> list[str]:
    if not unreported:
        return []
    noun = "child process" if unreported == 1 else "child processes"
    return [
        f"torchdevice: {unreported} {noun} left no counts: ended from outside, or still running"
    ]


def _cost(entry: Entry) -> str:
    if entry.moved < 1_000_000 and entry.seconds < 0.01:
        return ""  # nobody looks for so little
    return f" ({cost(entry.seconds, entry.moved)})"


def _totals(entries: Sequence[Entry]) -> str:
    totals: Counter[str] = Counter()
    for entry in entries:
        totals[entry.site.kind] += entry.count
    return in_words(totals)


def in_words(totals: Mapping[str, int]) -> str:
    """How many events of each kind there were."""
    # In the order of the table, which tells the most expected first; unknown kinds at the end.
    kinds = [*(kind for kind in KINDS if kind in totals), *sorted(set(totals) - set(KINDS))]
    return ", ".join(counted(totals[kind], *kind_of(kind)[:2]) for kind in kinds)


def _source(site: Site, source_line: Callable[[str, int], str]) -> str:
    text = " ".join(source_line(site.file, site.line).split())
    if len(text) > _LONGEST_SOURCE:
        return text[: _LONGEST_SOURCE - 3] + "..."
    return text

"""The report as text: in plain columns, or in tables where the library `rich` is installed."""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .._kinds import kind_of
from .._suggestions import ANY_DEVICE
from .._words import change, cost, place_of, printable, setting, size, time
from ._lines import by_line
from ._operators import groups

if TYPE_CHECKING:
    from ._model import Report, ReportEntry

__all__ = ["operators_as_text", "render", "show"]

_MOST_COSTS = 20
_MOST_OPERATORS = 25


class _Table(NamedTuple):
    title: str
    head: tuple[str, ...]
    # Columns of numbers stand to the right.
    right: frozenset[int]
    rows: Sequence[tuple[str, ...]]


def render(report: Report, *, rich: bool | None, width: int) -> str:
    """What `Report.text` does."""
    if rich is None:
        rich = importlib.util.find_spec("rich") is not None
    if not rich:
        return _plain(report)
    console_type = _rich_console()
    stream = io.StringIO()
    console = console_type(file=stream, width=width, color_system=None, force_terminal=False)
    _draw(report, console)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def show(report: Report) -> None:
    """What `Report.show` does."""
    if importlib.util.find_spec("rich") is None:
        print(_plain(report), end="")
        return
    _draw(report, _rich_console()(file=sys.stdout))


def operators_as_text(report: Report) -> str:
    """The times of the operators in plain columns; empty where none were timed."""
    return "\n\n".join(map(_plain_table, _operators(report)))


def _rich_console() -> Any:
    try:
        from rich.console import Console
    except ModuleNotFoundError as error:
        message = "rich is not installed: install it with pip, or ask for text(rich=False)."
        raise ModuleNotFoundError(message, name="rich") from error
    return Console


# --- what is told -----------------------------------------------------------------------------


def _heading(report: Report) -> str:
    program = " ".join(report.program) or "this program"
    return f"torchdevice report: {program}, target {report.target or 'none'}"


def _facts(report: Report) -> list[tuple[str, str]]:
    host, versions = report.host, report.versions
    memory = f", {size(host.memory)} of memory" if host.memory else ""
    settings = {name: setting(value) for name, value in report.settings.items() if value}
    return [
        ("created", report.created),
        ("target", f"{report.target or 'none'} ({report.target_reason or 'nothing redirected'})"),
        ("settings", ", ".join(f"{name}={value}" for name, value in settings.items())),
        ("machine", f"{host.processor}, {host.cores} cores{memory}, {host.platform}"),
        ("accelerators", ", ".join(host.accelerators) or "none"),
        ("versions", ", ".join(f"{name} {v or 'not imported'}" for name, v in versions.items())),
    ]


def _tables(report: Report) -> list[_Table]:
    tables = [_totals(report)]
    if report.costs:
        tables.append(_costs(report))
    return [*tables, *_operators(report)]


def _totals(report: Report) -> _Table:
    rows = [
        (
            kind_of(kind).several,
            f"{total.count:,}",
            f"{total.lines:,}",
            time(total.seconds) if total.seconds else "",
            size(total.moved) if total.moved else "",
        )
        for kind, total in report.totals.items()
    ]
    head = ("what happened", "times", "lines", "time", "copied")
    return _Table("Summary", head, frozenset({1, 2, 3, 4}), rows)


def _costs(report: Report) -> _Table:
    rows = [
        (
            time(entry.seconds) if entry.seconds else "",
            size(entry.moved) if entry.moved else "",
            f"{entry.count:,}",
            kind_of(entry.kind).one,
            place_of(entry.file, entry.line, report.folder),
            printable(entry.asked),
        )
        for entry in report.costs[:_MOST_COSTS]
    ]
    all_of_them = len(rows) == len(report.costs)
    title = "What it cost" + ("" if all_of_them else f" (the most of {len(report.costs):,})")
    head = ("time", "copied", "times", "what", "where", "asked")
    return _Table(title, head, frozenset({0, 1, 2}), rows)


def _operators(report: Report) -> list[_Table]:
    head = ("time", "of all", "calls", "each", "operator", "on")
    tables = []
    for group in groups(report):
        rows = [
            (
                time(operator.seconds),
                f"{100 * share:.1f} %",
                f"{operator.count:,}",
                time(operator.seconds / max(operator.count, 1)),
                operator.name,
                operator.device,
            )
            for operator, share in zip(group.operators, group.shares, strict=True)
        ]
        left = len(rows) - _MOST_OPERATORS
        title = group.title + (f" (the slowest of {len(rows):,})" if left > 0 else "")
        tables.append(_Table(title, head, frozenset({0, 1, 2, 3}), rows[:_MOST_OPERATORS]))
    return tables


def _by_line(report: Report) -> list[tuple[str, str, list[ReportEntry]]]:
    """Place, source and entries of each line, in the order of the files."""
    lines = by_line(report)
    return [
        (place_of(*key, report.folder), lines[key][0].source, lines[key]) for key in sorted(lines)
    ]


def _happened(entry: ReportEntry) -> str:
    paid = cost(entry.seconds, entry.moved)
    paid = f" [{paid}]" if paid else ""
    return printable(
        f"{entry.count:,}x {kind_of(entry.kind).one}: {change(entry.asked, entry.given)}{paid}, "
        f"{entry.reason}"
    )


def _advice(entries: Sequence[ReportEntry]) -> list[str]:
    rows = dict.fromkeys(row for entry in entries for row in entry.suggestions)
    return [f"write {row.instead} - {row.advice}" if row.instead else row.advice for row in rows]


def _missing(report: Report) -> list[str]:
    found = []
    if report.unreported:
        noun = "child process" if report.unreported == 1 else "child processes"
        found.append(
            f"{report.unreported} {noun} left no counts: ended from outside, or still running"
        )
    changed = [source.file for source in report.sources.values() if source.changed]
    found += [f"{file} was changed after the program began: lines may not fit" for file in changed]
    return found


# --- plain ------------------------------------------------------------------------------------


def _plain(report: Report) -> str:
    parts = [_heading(report), _aligned(_facts(report), indent=2)]
    if not report.events:
        parts.append("Nothing was redirected.")
    parts += [_plain_table(table) for table in _tables(report) if table.rows]
    lines = _by_line(report)
    if lines:
        parts.append(f"Lines to look at\n  In what follows, {ANY_DEVICE}")
    for place, source, entries in lines:
        told = [f"{place}  {printable(source)}".rstrip()]
        told += [f"    {_happened(entry)}" for entry in entries]
        told += [f"    -> {text}" for text in _advice(entries)]
        parts.append("\n".join(told))
    parts += _missing(report)
    return "\n\n".join(parts) + "\n"


def _plain_table(table: _Table) -> str:
    return f"{table.title}\n" + _aligned([table.head, *table.rows], right=table.right, indent=2)


def _aligned(
    rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset(), indent: int = 0
) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((" " * indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)


# --- rich -------------------------------------------------------------------------------------


def _draw(report: Report, console: Any) -> None:
    from rich import box
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    def say(words: str, style: str = "") -> None:
        console.print(Text(words, style))

    say(_heading(report), "bold")
    facts = Table.grid(padding=(0, 2))
    for name, fact in _facts(report):
        facts.add_row(Text(name, "dim"), Text(fact))
    console.print(facts)
    if not report.events:
        say("\nNothing was redirected.")
    for table in _tables(report):
        if not table.rows:
            continue
        drawn = Table(box=box.SIMPLE)
        for column, name in enumerate(table.head):
            drawn.add_column(name, justify="right" if column in table.right else "left")
        for cells in table.rows:
            drawn.add_row(*map(Text, cells))
        say(f"\n{table.title}", "bold")  # as a title it would be no wider than the table
        console.print(drawn)
    lines = _by_line(report)
    if lines:
        say("\nLines to look at", "bold")
        say(f"In what follows, {ANY_DEVICE}", "dim")
    for place, source, entries in lines:
        console.print()
        console.print(Text.assemble((place, "cyan"), "  ", printable(source)))
        for entry in entries:
            console.print(Padding(Text(_happened(entry)), (0, 0, 0, 4)))
        for words in _advice(entries):
            console.print(Padding(Text(f"→ {words}", "green"), (0, 0, 0, 4)))
    for words in _missing(report):
        say(f"\n{words}", "yellow")

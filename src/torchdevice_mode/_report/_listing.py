"""The program's source files in the page: marked lines with what happened at them beside."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._words import cost, counted, relative
from ._highlight import html_lines
from ._lines import by_line
from ._markup import badge, code, text

if TYPE_CHECKING:
    from ._model import Report, ReportEntry
    from ._sources import Source

__all__ = ["Listing", "line_id", "listings"]

# Lines around a marked one that are shown with it, and the fewest that are worth folding.
_AROUND = 3
_WORTH_FOLDING = 4
# Beyond so many lines in all, what is folded away is left out.
_MOST_LINES = 50_000
# Which kind gives a line its colour: what a reader should see first.
_SEVERITY = (
    *("fallback", "difference", "adoption", "downcast", "synchronisation"),
    *("redirection", "answer", "stub"),
)


@dataclass(frozen=True, slots=True)
class Listing:
    """One file in the page.

    Attributes:
        id: Of its element.
        name: As shown.
        source: The file.
        marks: Marked lines, with their entries; line 0 where no line is known.
        html: The element.
    """

    id: str
    name: str
    source: Source
    marks: dict[int, list[ReportEntry]]
    html: str


def line_id(file_id: str, line: int) -> str:
    """The id of a marked line."""
    return f"{file_id}-{line}"


def listings(report: Report) -> list[Listing]:
    """Every file with events, the program's own before those of packages."""
    marks: dict[str, dict[int, list[ReportEntry]]] = {}
    for (file, line), entries in by_line(report).items():
        marks.setdefault(file, {})[line] = entries
    ordered = sorted(marks, key=lambda file: (_rank(file, report.folder), file))
    left = _MOST_LINES
    found = []
    for number, file in enumerate(ordered):
        source = report.sources[file]
        left -= len(source.lines)
        name = relative(file, report.folder)
        # A listing of thousands of marks is for those who open it.
        html = _file(f"f{number}", name, source, marks[file], whole=left >= 0)
        found.append(Listing(f"f{number}", name, source, marks[file], html))
    return found


def _rank(file: str, folder: str) -> int:
    """0 for files in the program's folder, 1 for others, 2 for what is no file."""
    if file.startswith("<"):
        return 2
    return 0 if folder and file.startswith(folder + os.sep) else 1


def _file(
    file_id: str, name: str, source: Source, marks: dict[int, list[ReportEntry]], *, whole: bool
) -> str:
    events = sum(entry.count for entries in marks.values() for entry in entries)
    parts = [
        f'<details class="file" id="{file_id}" open>',
        f"<summary><h3>{text(name)}</h3> <span class='count'>"
        f"{counted(len(marks), 'marked line')}, {counted(events, 'event')}</span></summary>",
    ]
    if source.changed:
        parts.append(
            '<p class="warn">This file was changed after the program began: lines may not fit.</p>'
        )
    if not source.lines:
        parts.append("<p>The source of this file cannot be read, so its lines are not shown.</p>")
    parts += _body(file_id, source, marks, whole=whole)
    parts.append("</details>")
    return "\n".join(parts)


def _body(
    file_id: str, source: Source, marks: dict[int, list[ReportEntry]], *, whole: bool
) -> Iterator[str]:
    lines = html_lines(source.lines)
    position = 1
    for line in sorted(marks):
        if position < line <= len(lines):
            yield from _unmarked(lines, position, line, first=position == 1, whole=whole)
        content = lines[line - 1] if 0 < line <= len(lines) else ""
        yield _mark(file_id, line, content, marks[line])
        position = max(position, line + 1)
    if position <= len(lines):
        yield from _unmarked(lines, position, len(lines) + 1, last=True, whole=whole)


def _unmarked(
    lines: Sequence[str],
    start: int,
    end: int,
    *,
    first: bool = False,
    last: bool = False,
    whole: bool,
) -> Iterator[str]:
    """Lines between two marks: those beside a mark are shown, the rest is folded away."""
    fold_from = start if first else start + _AROUND
    fold_to = end if last else end - _AROUND
    if fold_to - fold_from < _WORTH_FOLDING:
        yield _plain(lines, start, end)
        return
    yield _plain(lines, start, fold_from)
    words = f"Lines {fold_from:,} to {fold_to - 1:,}: nothing happened"
    if whole:
        yield (
            f'<details class="gap"><summary>{words}</summary>\n'
            f"{_plain(lines, fold_from, fold_to)}</details>"
        )
    else:
        yield f"<p>{words} (left out of this page for its size)</p>"
    yield _plain(lines, fold_to, end)


def _plain(lines: Sequence[str], start: int, end: int) -> str:
    if start >= end:
        return ""
    rows = "".join(_line(number, lines[number - 1]) for number in range(start, end))
    return f"<pre>{rows}</pre>"


def _line(number: int, content: str) -> str:
    # The newline is for those who copy the text; the browser shows each line as a block.
    return f'<span class="l" data-n="{number}">{content}\n</span>'


def _mark(file_id: str, line: int, content: str, entries: Sequence[ReportEntry]) -> str:
    kinds = {entry.kind for entry in entries}
    colour = next((kind for kind in _SEVERITY if kind in kinds), "stub")
    source = f"<pre>{_line(line, content)}</pre>" if line else "<pre></pre>"
    return (
        f'<div class="mark k-{colour}" id="{line_id(file_id, line)}">\n{source}\n'
        f'<div class="notes">{_notes(entries)}</div>\n</div>'
    )


def _notes(entries: Sequence[ReportEntry]) -> str:
    told = "".join(f"<li>{_note(entry)}</li>" for entry in entries)
    rows = dict.fromkeys(row for entry in entries for row in entry.suggestions)
    advice = "".join(
        '<p class="instead">'
        + (f"<b>Write</b> {code(row.instead)} " if row.instead else "<b>Advice</b> ")
        + f"{text(row.advice)}</p>"
        for row in rows
    )
    return f"<ul>{told}</ul>{advice}"


def _note(entry: ReportEntry) -> str:
    paid = cost(entry.seconds, entry.moved)
    return (
        f"{badge(entry.kind)} <strong>{entry.count:,}&times;</strong> {code(entry.asked)} → "
        f"{code(entry.given)}{f', <strong>{paid}</strong>' if paid else ''} "
        f'<span class="why">{text(entry.reason)}</span>'
    )

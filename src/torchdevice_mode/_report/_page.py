"""The report as one page for a browser: no script, no network, no other file."""

from __future__ import annotations

import os
import pkgutil
from collections.abc import Iterable, Sequence
from string import Template
from typing import TYPE_CHECKING

from .._kinds import KINDS, kind_of
from .._suggestions import ANY_DEVICE, Suggestion
from .._words import cost, counted, place_of, setting, size, time
from ._listing import Listing, line_id, listings
from ._markup import badge, bar, code, link, table, text
from ._operators import groups

if TYPE_CHECKING:
    from ._model import Report, ReportEntry

__all__ = ["render"]

_FIRST = 20  # rows of a table before the rest is folded away
_POLICIES = {
    "force": "requests for the CPU, and for no device, go to the target as well",
    "explicit": "only requests for an accelerator that the machine lacks are moved",
}


def render(report: Report) -> str:
    """What `Report.html` does."""
    files = listings(report)
    ids = {listing.source.file: listing.id for listing in files}
    sections = [
        ("summary", "Summary", _summary(report)),
        ("change", "Lines to change", _changes(report, ids)),
        ("cost", "What it cost", _costs(report, ids)),
        ("operators", "Time by operator", _operators(report)),
        ("source", "Source", _sources(files)),
        ("machine", "Machine and settings", _machine(report)),
    ]
    present = [section for section in sections if section[2]]
    program = _program(report)
    return Template(_part("page.html")).substitute(
        version=text(report.versions.get("torchdevice", "")),
        title=text(f"{program} on {report.target or 'plain torch'}: torchdevice report"),
        heading=f"{text(program)} on {text(report.target or 'plain torch')}",
        lead=_lead(report),
        created=text(report.created),
        style=_part("page.css").strip(),
        contents=_contents(present, files),
        sections="\n".join(
            f'<section id="{name}" aria-labelledby="h-{name}">\n<h2 id="h-{name}">{title}</h2>\n'
            f"{body}\n</section>"
            for name, title, body in present
        ),
    )


def _part(name: str) -> str:
    data = pkgutil.get_data(__package__, name)
    assert data is not None
    return data.decode()


def _program(report: Report) -> str:
    """The program's name, as a heading has room for it."""
    words = [os.path.basename(word) for word in report.program[:1]]  # noqa: PTH119
    if report.program[:1] == ("-m",):
        words = ["-m", *report.program[1:2]]
    return " ".join(words) or "This program"


def _lead(report: Report) -> str:
    """What a reader wants to know first, in a sentence or two."""
    totals = report.totals
    if not totals:
        if report.target is None:
            return "Nothing was redirected: the program did not import torch."
        return "Nothing was redirected: the program asked for nothing that would have to be moved."
    moved = totals.get("redirection")
    parts = []
    if moved is not None:
        # Those that name no device are among them.
        verb = "was" if moved.count == 1 else "were"
        parts.append(
            f"<strong>{counted(moved.count, 'request')}</strong> for a device, at "
            f"{counted(moved.lines, 'line')}, {verb} given another: "
            f"<strong>{text(report.target)}</strong>."
        )
    seconds = sum(total.seconds for total in totals.values())
    copied = sum(total.moved for total in totals.values())
    if seconds or copied:
        paid = " and ".join(
            [time(seconds)] * bool(seconds) + [f"{size(copied)} of copies"] * bool(copied)
        )
        parts.append(f"What it cost, where that is known: <strong>{paid}</strong>.")
    else:
        parts.append("Nothing of it was found to cost time.")
    return " ".join(parts)


def _contents(sections: Sequence[tuple[str, str, str]], files: Sequence[Listing]) -> str:
    items = []
    for name, title, _ in sections:
        inner = ""
        if name == "source":
            rows = "".join(
                f'<li><a href="#{listing.id}"><span>{text(listing.name)}</span>'
                f'<span class="count">{len(listing.marks):,}</span></a></li>'
                for listing in files
            )
            inner = f"<ul>{rows}</ul>"
        items.append(f'<li><a href="#{name}">{title}</a>{inner}</li>')
    # A scrolled list can be reached by keyboard only where it can have the focus.
    return (
        '<div tabindex="0" role="group" aria-label="Sections and files">'
        f"<ul>{''.join(items)}</ul></div>"
    )


# --- sections -----------------------------------------------------------------------------------


def _summary(report: Report) -> str:
    cards = []
    for kind, total in report.totals.items():
        about = kind_of(kind)
        paid = cost(total.seconds, total.moved)
        cards.append(
            f'<li class="k-{text(kind)}"><strong>{total.count:,}</strong>'
            f'<span class="what">{text(about.one if total.count == 1 else about.several)}</span> '
            f"at {counted(total.lines, 'line')}{f', {paid}' if paid else ''}"
            f"<p>{text(about.meaning)}</p></li>"
        )
    parts = [f'<ul class="cards">{"".join(cards)}</ul>'] if cards else []
    if not cards:
        parts.append("<p>There are no events to show.</p>")
    if report.unreported:
        parts.append(
            f'<p class="warn">{counted(report.unreported, "child process", "child processes")} '
            "left no counts: ended from outside, or still running.</p>"
        )
    return "\n".join(parts)


def _changes(report: Report, ids: dict[str, str]) -> str:
    """A row for each suggestion, with the lines that it is for."""
    lines: dict[Suggestion, dict[tuple[str, int], None]] = {}
    for entry in sorted(report.events, key=lambda e: (e.file, e.line)):
        for row in entry.suggestions:
            lines.setdefault(row, {})[entry.file, entry.line] = None
    if not lines:
        return ""
    # What is to be written before what is to be thought over.
    ordered = sorted(lines, key=lambda row: (not row.instead, -len(lines[row])))
    rows = [
        (
            code(row.instead) if row.instead else '<span class="quiet">advice only</span>',
            text(row.advice),
            f"{len(lines[row]):,}",
            _places(report, ids, list(lines[row])),
        )
        for row in ordered
    ]
    return (
        '<p class="about">These spellings of plain torch name no particular device. In all of '
        "them, <code>device</code> is set once, where the program begins:</p>\n"
        f'<pre class="once"><code>{text(ANY_DEVICE)}</code></pre>\n'
        + table(
            "What to write instead, for the most lines first",
            (("Write", "write"), ("Why, and what to mind", ""), ("Lines", "number"), ("Where", "")),
            rows,
            name="changes",
        )
    )


def _places(report: Report, ids: dict[str, str], places: list[tuple[str, int]]) -> str:
    def items(some: Iterable[tuple[str, int]]) -> str:
        return "".join(f"<li>{_place(report, ids, *place)}</li>" for place in some)

    shown = f'<ul class="places">{items(places[:8])}</ul>'
    rest = places[8:]
    if rest:
        shown += (
            f'<details class="more"><summary>{len(rest):,} more</summary>'
            f'<ul class="places">{items(rest)}</ul></details>'
        )
    return shown


def _place(report: Report, ids: dict[str, str], file: str, line: int) -> str:
    return link(line_id(ids.get(file, ""), line), place_of(file, line, report.folder))


def _costs(report: Report, ids: dict[str, str]) -> str:
    costs = report.costs
    if not costs:
        return ""
    most = max(entry.seconds for entry in costs)
    most_moved = max(entry.moved for entry in costs) or 1

    def row(entry: ReportEntry) -> tuple[str, ...]:
        share = entry.seconds / most if most else entry.moved / most_moved
        return (
            bar(share),
            time(entry.seconds) if entry.seconds else "",
            size(entry.moved) if entry.moved else "",
            f"{entry.count:,}",
            badge(entry.kind),
            _place(report, ids, entry.file, entry.line),
            code(entry.asked),
        )

    head = (
        *(("Share of the slowest", "share"), ("Time", "number"), ("Copied", "number")),
        *(("Times", "number"), ("What", ""), ("Where", ""), ("Asked", "")),
    )
    about = (
        '<p class="about">What the program would not have paid for on a machine with its own '
        "device, or pays for everywhere: the slowest first.</p>\n"
    )
    return about + _folded("Costs by line", head, [row(entry) for entry in costs])


def _operators(report: Report) -> str:
    found = list(groups(report))
    most = max((group.operators[0].seconds for group in found), default=0.0) or 1.0
    head = (
        *(("Share of the slowest", "share"), ("Time", "number"), ("Of all", "number")),
        *(("Calls", "number"), ("Each", "number"), ("Operator", ""), ("On", "")),
    )
    parts = []
    for group in found:
        rows = [
            (
                bar(operator.seconds / most),
                time(operator.seconds),
                f"{100 * share:.1f} %",
                f"{operator.count:,}",
                time(operator.seconds / max(operator.count, 1)),
                code(operator.name),
                text(operator.device),
            )
            for operator, share in zip(group.operators, group.shares, strict=True)
        ]
        parts.append(_folded(group.title, head, rows))
    return "\n".join(parts)


def _folded(caption: str, head: Sequence[tuple[str, str]], rows: Sequence[tuple[str, ...]]) -> str:
    """A table, of which what comes after the first rows is folded away."""
    shown = table(caption, head, rows[:_FIRST])
    rest = rows[_FIRST:]
    if not rest:
        return shown
    more = table(f"{caption}, the rest", head, rest)
    return (
        f'{shown}\n<details class="more"><summary>{len(rest):,} more rows</summary>\n{more}\n'
        "</details>"
    )


def _sources(files: Sequence[Listing]) -> str:
    if not files:
        return ""
    return (
        '<p class="about">The lines at which something happened, and what that was. Stretches '
        "without events are folded away.</p>\n" + "\n".join(listing.html for listing in files)
    )


def _machine(report: Report) -> str:
    host = report.host
    facts = [
        ("Command", code(" ".join(report.program))),
        ("Folder", code(report.folder) if report.folder else "not known"),
        ("Target", f"{code(report.target or 'none')} {text(report.target_reason)}"),
        ("Accelerators", text(", ".join(host.accelerators) or "none that torch can use")),
        (
            "Machine",
            text(
                f"{host.processor}, {host.cores} cores"
                + (f", {size(host.memory)} of memory" if host.memory else "")
            ),
        ),
        ("System", text(host.platform)),
        (
            "Versions",
            text(", ".join(f"{name} {v or 'not imported'}" for name, v in report.versions.items())),
        ),
    ]
    policy = _POLICIES.get(str(report.settings.get("policy")), "")
    rows = [
        (
            f"<code>{text(name)}</code>",
            text(setting(value)),
            text(policy if name == "policy" else ""),
        )
        for name, value in report.settings.items()
    ]
    kinds = "".join(
        f"<dt>{badge(kind)}</dt><dd>{text(about.meaning)}</dd>" for kind, about in KINDS.items()
    )
    return (
        "<dl>"
        + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts)
        + "</dl>\n"
        + table("Settings", (("Setting", ""), ("Value", ""), ("Meaning", "")), rows)
        + '\n<details class="more"><summary>What the words mean</summary>'
        + f"<dl>{kinds}</dl></details>"
    )

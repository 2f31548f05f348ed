"""What a report holds: frozen records, made from the entries of a ledger."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from .._kinds import KINDS, PROFILED
from .._ledger import Entry
from .._settings import Settings
from .._suggestions import Suggestion
from ._advice import advise
from ._sources import Source, read_source

if TYPE_CHECKING:
    from .._machine import Machine

__all__ = ["Host", "OperatorTime", "Report", "ReportEntry", "Total", "collect"]


class Total(NamedTuple):
    """All events of one kind.

    Attributes:
        count: How many there were.
        lines: At how many lines of the program.
        moved: Bytes that were copied between devices for them.
        seconds: Time that they took, where it was measured.
    """

    count: int  # type: ignore[assignment]  # the method of tuples is not missed
    lines: int
    moved: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ReportEntry:
    """What happened at one line of the program.

    Attributes:
        kind: `redirection`, `answer`, `adoption`, `fallback`, `downcast`, `difference`,
            `synchronisation` or `stub`; with `profile` also `operator` and `copy`.
        file: File name as Python has it.
        line: Line number; 0 where no line is known.
        function: Qualified name of the function around it.
        source: The line's text; empty where it cannot be read.
        asked: What the program asked for.
        given: What it got.
        reason: Why.
        count: How often.
        moved: Bytes that were copied between devices for it.
        seconds: Time that it took, where it was measured.
        suggestions: What to write instead.
    """

    kind: str
    file: str
    line: int
    function: str
    source: str
    asked: str
    given: str
    reason: str
    count: int
    moved: int
    seconds: float
    suggestions: tuple[Suggestion, ...]


@dataclass(frozen=True, slots=True)
class OperatorTime:
    """What one operator took, all lines together; measured with `profile`.

    Attributes:
        name: Such as `aten::mm`.
        kind: `operator`, `copy` or `fallback`.
        device: Where it ran; for a copy, from where to where.
        count: How often.
        seconds: In all.
        moved: Bytes that were copied between devices.
    """

    name: str
    kind: str
    device: str
    count: int
    seconds: float
    moved: int


@dataclass(frozen=True, slots=True)
class Host:
    """The machine that the program ran on.

    Attributes:
        platform: The system and its version.
        processor: The processor's name.
        cores: How many it has, as far as the program may use them.
        memory: Bytes of memory; 0 where that is not known.
        accelerators: Those that torch can use, in words.
    """

    platform: str
    processor: str
    cores: int
    memory: int
    accelerators: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What was redirected, where, and what that cost. Made by `torchdevice.report()`.

    Attributes:
        created: When, as ISO 8601 text in UTC.
        program: The command line of the program.
        folder: The folder in which it ran.
        target: The device that requests went to; None where nothing was redirected.
        target_reason: Why that one.
        settings: The settings that held, by name.
        host: The machine.
        versions: Of `torchdevice`, `torch` and `python`; empty text where there is none.
        entries: What happened at each line, the busiest first.
        sources: The files of these lines, as far as they can be read, by name.
        profiled: Whether every operator was timed.
        unreported: How many other processes left no counts.
    """

    created: str
    program: tuple[str, ...]
    folder: str
    target: str | None
    target_reason: str
    settings: Mapping[str, Any]
    host: Host
    versions: Mapping[str, str]
    entries: tuple[ReportEntry, ...]
    sources: Mapping[str, Source] = field(repr=False)
    profiled: bool = False
    unreported: int = 0

    @property
    def events(self) -> tuple[ReportEntry, ...]:
        """The entries without those of the profile."""
        return tuple(entry for entry in self.entries if entry.kind not in PROFILED)

    @property
    def totals(self) -> dict[str, Total]:
        """What there was of each kind, the most expected kind first."""
        totals: dict[str, Total] = {}
        lines: dict[str, set[tuple[str, int]]] = {}
        known = {kind: place for place, kind in enumerate(KINDS)}
        for entry in sorted(self.events, key=lambda e: known.get(e.kind, len(known))):
            count, _, moved, seconds = totals.get(entry.kind, (0, 0, 0, 0.0))
            at = lines.setdefault(entry.kind, set())
            at.add((entry.file, entry.line))
            totals[entry.kind] = Total(
                count + entry.count, len(at), moved + entry.moved, seconds + entry.seconds
            )
        return totals

    @property
    def costs(self) -> tuple[ReportEntry, ...]:
        """The entries that cost time or copies, the most expensive first."""
        costly = [entry for entry in self.events if entry.seconds or entry.moved]
        return tuple(sorted(costly, key=lambda entry: (-entry.seconds, -entry.moved)))

    @property
    def operators(self) -> tuple[OperatorTime, ...]:
        """What each operator took, the slowest first; empty without `profile`."""
        if not self.profiled:
            return ()
        found: dict[tuple[str, str, str], list[Any]] = {}
        for entry in self.entries:
            if entry.kind in PROFILED or (entry.kind == "fallback" and entry.seconds):
                sums = found.setdefault((entry.asked, entry.kind, entry.given), [0, 0.0, 0])
                for place, value in enumerate((entry.count, entry.seconds, entry.moved)):
                    sums[place] += value
        times = [OperatorTime(*key, *sums) for key, sums in found.items()]
        return tuple(sorted(times, key=lambda time: -time.seconds))

    # --- forms ------------------------------------------------------------------------------

    def text(self, *, rich: bool | None = None, width: int = 100) -> str:
        """The report as text.

        Args:
            rich: Whether the library `rich` draws the tables; None where it is installed.
            width: Of what `rich` draws.

        Returns:
            Several lines, ended by a newline; without colours.

        Raises:
            ModuleNotFoundError: If `rich` is asked for and not installed.
        """
        from ._text import render

        return render(self, rich=rich, width=width)

    def show(self) -> None:
        """Print the report, in colours where `rich` is installed and this is a terminal."""
        from ._text import show

        show(self)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values that JSON can hold; docs/report.md tells what they mean."""
        from ._json import to_dict

        return to_dict(self)

    def to_json(self, *, indent: int | None = 2) -> str:
        """The report as JSON.

        Args:
            indent: As for `json.dumps`.

        Returns:
            Text that fits the schema in `report.schema.json`, ended by a newline.
        """
        from ._json import to_json

        return to_json(self, indent=indent)

    def html(self) -> str:
        """The report as one page for a browser, which needs no other file and no network."""
        from ._page import render

        return render(self)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the report to a file, in the form that its ending names.

        Args:
            path: Ends in `.html`, `.json` or `.txt`; what is there is replaced.

        Raises:
            ReportError: If the ending is another one, or the file cannot be written; a file that
                was there before is still there, then.
        """
        from ._files import write

        write(self, path)


def collect(
    entries: Iterable[Entry],
    *,
    target: str | None,
    target_reason: str = "",
    settings: Settings,
    machine: Machine | None = None,
    accelerators: Sequence[str] = (),
    versions: Mapping[str, str],
    program: Sequence[str] | None = None,
    folder: str = "",
    since: float | None = None,
    unreported: int = 0,
) -> Report:
    """Make a report of what a ledger counted.

    Args:
        entries: The ledger's.
        target: The device that requests went to.
        target_reason: Why that one.
        settings: What held.
        machine: What torch finds here; None where torch was not imported.
        accelerators: Those of the machine, in words.
        versions: Of `torchdevice` and `torch`.
        program: The command line; by default this process's.
        folder: Where the program ran.
        since: When it began, in seconds since the epoch: files that changed later are marked.
        unreported: How many other processes left no counts.

    Returns:
        The report; it reads the program's source files.
    """
    ordered = sorted(entries, key=lambda e: (-e.count, e.site))
    sources = {}
    for file in sorted({entry.site.file for entry in ordered}):
        sources[file] = read_source(file, since=since)
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Report(
        created=created,
        program=tuple(sys.argv if program is None else program),
        folder=folder,
        target=target,
        target_reason=target_reason,
        settings=settings._asdict(),
        host=_host(accelerators),
        versions={**versions, "python": platform.python_version()},
        entries=_report_entries(ordered, sources),
        sources=sources,
        profiled=bool(getattr(settings, "profile", False)),
        unreported=unreported,
    )


def _report_entries(
    entries: Sequence[Entry], sources: Mapping[str, Source]
) -> tuple[ReportEntry, ...]:
    # What else was asked at the line.
    asked: dict[tuple[str, int], set[str]] = {}
    for entry in entries:
        asked.setdefault(entry.site[:2], set()).add(entry.site.asked)
    made = []
    for site, count, moved, seconds in entries:
        source = sources[site.file]
        names = source.names.get(site.line, ()) if source.lines else None
        suggestions = advise(site.kind, site.asked, names, asked[site[:2]])
        made.append(
            ReportEntry(
                kind=site.kind,
                file=site.file,
                line=site.line,
                function=site.function,
                source=source.line(site.line).strip(),
                asked=site.asked,
                given=site.given,
                reason=site.reason,
                count=count,
                moved=moved,
                seconds=seconds,
                suggestions=suggestions,
            )
        )
    return tuple(made)


def _host(accelerators: Sequence[str]) -> Host:
    try:
        import psutil

        memory = int(psutil.virtual_memory().total)
    except Exception:  # a container without /proc, or no psutil
        memory = 0
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return Host(platform.platform(), _processor(), cores, memory, tuple(accelerators))


def _processor() -> str:
    """The processor's name; `platform` knows it on few systems."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            for line in file:
                name, _, value = line.partition(":")
                if name.strip().lower() == "model name":
                    return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

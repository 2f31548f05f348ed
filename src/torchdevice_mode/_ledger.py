"""The ledger: what was redirected, counted by call site of the user's code.

Memory grows with call sites, not with calls. Each thread counts in a dictionary of its own,
so counting takes no lock and loses nothing; reading merges them.
"""

from __future__ import annotations

import threading
import types
import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

__all__ = ["Entry", "Event", "Ledger", "Site", "event"]


class Site(NamedTuple):
    """Where in the user's code, and what happened there.

    Attributes:
        file: File name as the code object has it.
        line: Line number.
        function: Qualified name of the function around the call.
        kind: `redirection`, `adoption`, `downcast`, `fallback` or `stub`.
        asked: What the program asked for, as text.
        given: What it got, as text.
        reason: Why.
    """

    file: str
    line: int
    function: str
    kind: str
    asked: str
    given: str
    reason: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A site and how often it was passed."""

    site: Site
    count: int


class Event:
    """What happened, without the place. Made by `event`, so that identity is equality.

    Args:
        kind: `redirection`, `adoption`, `downcast`, `fallback` or `stub`.
        asked: What the program asked for, as text.
        given: What it got, as text.
        reason: Why.
    """

    __slots__ = ("asked", "given", "kind", "reason")

    def __init__(self, kind: str, asked: str, given: str, reason: str) -> None:
        self.kind = kind
        self.asked = asked
        self.given = given
        self.reason = reason


@cache
def event(kind: str, asked: str, given: str, reason: str) -> Event:
    """The one event with these texts."""
    return Event(kind, asked, given, reason)


_Key = tuple[types.CodeType | None, int, Event]


class _Tally:
    """How often one site was passed in one thread."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 1


class _Counts:
    """One thread's counts; weakly referable, so that a finished thread can be told."""

    # A program may make code anew all the time; what it passes again is found again.
    _MOST_PLACES = 10_000

    def __init__(self) -> None:
        self.sites: dict[_Key, _Tally] = {}
        # To compare code objects takes long, and so does finding a line: where the interpreter
        # stands in which object leads to the same tally at once. The objects are kept alive,
        # or another could come to have the same id.
        self.places: dict[tuple[int, int, Event], _Tally] = {}
        self._alive: list[types.CodeType] = []

    def arrive(self, frame: types.FrameType, what: Event) -> bool:
        """Count at a place that was not passed before; True if its line was not, either."""
        key = (frame.f_code, frame.f_lineno, what)
        if len(self.places) >= self._MOST_PLACES:
            self.places.clear()
            self._alive.clear()
        tally = self.sites.get(key)
        is_new = tally is None
        if tally is None:
            tally = self.sites[key] = _Tally()
        else:
            tally.count += 1
        self._alive.append(frame.f_code)
        self.places[id(frame.f_code), frame.f_lasti, what] = tally
        return is_new

    def nowhere(self, what: Event) -> bool:
        """Count what has no place."""
        tally = self.sites.get((None, 0, what))
        if tally is None:
            self.sites[None, 0, what] = _Tally()
            return True
        tally.count += 1
        return False

    def counter(self) -> Counter[_Key]:
        """The counts as they are now; `copy` is one step, while their thread goes on."""
        return Counter({key: tally.count for key, tally in self.sites.copy().items()})


class Ledger:
    """Counts by call site. Thread-safe; one for each session of redirection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._local = threading.local()
        self._threads: list[tuple[weakref.ref[threading.Thread], _Counts]] = []
        self._finished: Counter[_Key] = Counter()

    def count(self, frame: types.FrameType | None, what: Event) -> bool:
        """Count one event.

        Args:
            frame: The user's frame, or None where it cannot be known.
            what: What happened.

        Returns:
            True the first time this thread passes the site.
        """
        try:
            counts = self._local.counts
        except AttributeError:
            counts = self._register()
        if frame is None:
            return counts.nowhere(what)
        tally = counts.places.get((id(frame.f_code), frame.f_lasti, what))
        if tally is None:
            return counts.arrive(frame, what)
        tally.count += 1
        return False

    def _register(self) -> _Counts:
        counts = _Counts()
        with self._lock:
            self._fold_finished_threads()
            self._threads.append((weakref.ref(threading.current_thread()), counts))
        self._local.counts = counts
        return counts

    def _fold_finished_threads(self) -> None:
        """Programs that start many short threads must not leave a dictionary for each."""
        running = []
        for reference, counts in self._threads:
            thread = reference()
            if thread is None or not thread.is_alive():
                self._finished.update(counts.counter())
            else:
                running.append((reference, counts))
        self._threads = running

    def entries(self) -> list[Entry]:
        """Every site with its count, the busiest first."""
        with self._lock:
            total = Counter(self._finished)
            for _, counts in self._threads:
                total.update(counts.counter())
        merged: Counter[Site] = Counter()
        for key, count in total.items():
            merged[_site(key)] += count
        return [Entry(site, count) for site, count in merged.most_common()]

    def total(self, kind: str | None = None) -> int:
        """How many events there were, of one kind or of all."""
        return _sum(self.entries(), kind)


def _sum(entries: Iterable[Entry], kind: str | None) -> int:
    return sum(entry.count for entry in entries if kind in (None, entry.site.kind))


def _site(key: _Key) -> Site:
    code, line, what = key
    file = code.co_filename if code else "<unknown>"
    function = getattr(code, "co_qualname", code.co_name) if code else "<unknown>"
    return Site(file, line, function, what.kind, what.asked, what.given, what.reason)

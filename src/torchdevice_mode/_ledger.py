"""The ledger: what was redirected, counted by call site of the user's code.

Memory grows with call sites, not with calls. Each thread counts in a dictionary of its own,
so counting takes no lock and loses nothing; reading merges them.
"""

from __future__ import annotations

import threading
import time
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

__all__ = ["Entry", "Event", "Ledger", "Place", "Site", "event"]


class Site(NamedTuple):
    """Where in the user's code, and what happened there.

    Attributes:
        file: File name as the code object has it.
        line: Line number.
        function: Qualified name of the function around the call.
        kind: Such as `redirection`; `_kinds` has them all.
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


class Entry(NamedTuple):
    """A site, how often it was passed, and what that cost where it is measured.

    Attributes:
        site: The site.
        count: How often it was passed.
        moved: Bytes copied between devices for it.
        seconds: Time that it took, copies included.
    """

    site: Site
    count: int  # type: ignore[assignment]  # the method of tuples is not missed
    moved: int = 0
    seconds: float = 0.0


class Event:
    """What happened, without the place. Made by `event`, so that identity is equality.

    Args:
        kind: Such as `redirection`; `_kinds` has them all.
        asked: What the program asked for, as text.
        given: What it got, as text.
        reason: Why.
    """

    __slots__ = ("asked", "given", "kind", "reason")

    def __init__(self, kind: str, asked: str, given: str, reason: str) -> None:
        self.kind: str = kind
        self.asked: str = asked
        self.given: str = given
        self.reason: str = reason


@cache
def event(kind: str, asked: str, given: str, reason: str) -> Event:
    """The one event with these texts."""
    return Event(kind, asked, given, reason)


class Place(NamedTuple):
    """Where a frame stood, for later: a frame would keep its variables alive.

    Attributes:
        f_code: As a frame's.
        f_lineno: As a frame's.
        f_lasti: As a frame's.
    """

    f_code: types.CodeType
    f_lineno: int
    f_lasti: int


_Total = dict[Site, "_Tally"]
# File, function and line: not the code itself, as that of another file may be equal to it.
_Key = tuple[str, str, int, Event]
_NOWHERE = ("<unknown>", "<unknown>", 0)


class _Tally:
    """How often one site was passed in one thread, and what that cost."""

    __slots__ = ("count", "moved", "seconds")

    def __init__(self) -> None:
        self.count = 1
        self.moved = 0
        self.seconds = 0.0

    def add(self, other: _Tally) -> None:
        self.count += other.count
        self.moved += other.moved
        self.seconds += other.seconds


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

    def arrive(self, frame: types.FrameType | Place, what: Event) -> bool:
        """Count at a place that was not passed before; True if its line was not, either."""
        key = _key(frame, what)
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
        key = (*_NOWHERE, what)
        tally = self.sites.get(key)
        if tally is None:
            self.sites[key] = _Tally()
            return True
        tally.count += 1
        return False

    def add_to(self, total: _Total) -> None:
        """Add the counts as they are now; `copy` is one step, while their thread goes on."""
        for key, tally in self.sites.copy().items():
            _none_yet(total, _site(key)).add(tally)


class _CountsOnce(_Counts):
    """Counts of a call that is made a second time: its redirection is counted already.

    Args:
        counts: The thread's, which get everything else.
        place: Where the call is made; None where that cannot be known.
    """

    def __init__(self, counts: _Counts, place: types.FrameType | Place | None) -> None:
        super().__init__()
        self._counts = counts
        self._place = place
        self.sites = counts.sites

    def arrive(self, frame: types.FrameType | Place, what: Event) -> bool:
        """Count at a place, but for a redirection where the call is made; True if that is new."""
        key = _key(frame, what)
        is_new = False
        if not self._is_repeated(frame, what, key):
            is_new = self._counts.arrive(frame, what)
        # Once only: another one of this call finds the tally here, and is counted.
        self._alive.append(frame.f_code)
        self.places[id(frame.f_code), frame.f_lasti, what] = self.sites[key]
        return is_new

    def nowhere(self, what: Event) -> bool:
        """Count what has no place."""
        return not self._is_repeated(None, what, (*_NOWHERE, what)) and self._counts.nowhere(what)

    def _is_repeated(self, frame: types.FrameType | Place | None, what: Event, key: _Key) -> bool:
        mine = self._place
        if frame is None or mine is None:
            is_there = frame is mine
        else:
            is_there = frame.f_code is mine.f_code and frame.f_lineno == mine.f_lineno
        return is_there and what.kind == "redirection" and key in self.sites


class Ledger:
    """Counts by call site. Thread-safe; one for each session of redirection.

    Attributes:
        unreported: How many other processes were to tell what they counted, and did not.
        on_first: Called when a thread counts for the first time.
        began: When it was made, in seconds since the epoch.
    """

    def __init__(self) -> None:
        self.on_first: Callable[[], None] | None = None
        self.began: float = time.time()
        self.restart()

    def restart(self) -> None:
        """Forget everything, also who holds the lock: a forked process begins with this."""
        self.unreported = 0
        self._lock = threading.Lock()
        self._local = threading.local()
        self._threads: list[tuple[weakref.ref[threading.Thread], _Counts]] = []
        self._finished: _Total = {}
        self._told: dict[_Key, object] = {}

    def is_first(self, place: types.FrameType | Place, what: Event) -> bool:
        """Whether this is asked for the first time of an event at a line, whatever the thread."""
        mine = object()
        return self._told.setdefault(_key(place, what), mine) is mine  # in one step

    def count(self, frame: types.FrameType | Place | None, what: Event) -> bool:
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

    def count_again(self, frame: types.FrameType, what: Event) -> bool:
        """Count one event where it was counted before, and else nothing.

        Args:
            frame: The frame at the place.
            what: What happened.

        Returns:
            Whether this thread has counted it at this place before.
        """
        try:
            tally = self._local.counts.places.get((id(frame.f_code), frame.f_lasti, what))
        except AttributeError:
            return False
        if tally is None:
            return False
        tally.count += 1
        return True

    def count_cost(
        self, frame: types.FrameType | Place | None, what: Event, *, moved: int, seconds: float
    ) -> int:
        """Count one event and what it cost.

        Args:
            frame: The user's frame, or None where it cannot be known.
            what: What happened.
            moved: Bytes copied between devices.
            seconds: Time that it took.

        Returns:
            How often this thread has passed the site.
        """
        self.count(frame, what)
        self.add_cost(frame, what, moved=moved, seconds=seconds)
        return self._tally(frame, what).count

    def add_cost(
        self, frame: types.FrameType | Place | None, what: Event, *, moved: int, seconds: float
    ) -> None:
        """Add to the cost of an event that this thread has just counted at the place.

        Args:
            frame: As for `count`.
            what: What happened.
            moved: Bytes copied between devices.
            seconds: Time that it took.
        """
        tally = self._tally(frame, what)
        tally.moved += moved
        tally.seconds += seconds

    @contextmanager
    def counting_once(self, frame: types.FrameType | Place | None) -> Iterator[None]:
        """A block that makes a call again: this thread counts a redirection there once, not twice.

        Args:
            frame: The user's frame, or None where it cannot be known.
        """
        local = self._local
        before = getattr(local, "counts", None)
        if before is None:
            yield  # nothing was counted, so nothing is counted again
            return
        local.counts = _CountsOnce(before, frame)
        try:
            yield
        finally:
            local.counts = before

    def _tally(self, frame: types.FrameType | Place | None, what: Event) -> _Tally:
        counts = self._local.counts
        if frame is None:
            nowhere = (*_NOWHERE, what)
            return counts.sites[nowhere]
        return counts.places[id(frame.f_code), frame.f_lasti, what]

    def _register(self) -> _Counts:
        counts = _Counts()
        with self._lock:
            self._fold_finished_threads()
            self._threads.append((weakref.ref(threading.current_thread()), counts))
        self._local.counts = counts
        if self.on_first is not None:
            self.on_first()
        return counts

    def add(self, entries: Iterable[Entry], *, instead_of: Iterable[Entry] = ()) -> None:
        """Add what was counted elsewhere.

        Args:
            entries: As another ledger gave them.
            instead_of: What that one gave before, and is added already.
        """
        with self._lock:
            for sign, some in ((1, entries), (-1, instead_of)):
                for entry in some:
                    tally = _none_yet(self._finished, entry.site)
                    tally.count += sign * entry.count
                    tally.moved += sign * entry.moved
                    tally.seconds += sign * entry.seconds

    def _fold_finished_threads(self) -> None:
        """Programs that start many short threads must not leave a dictionary for each."""
        running = []
        for reference, counts in self._threads:
            thread = reference()
            if thread is None or not thread.is_alive():
                counts.add_to(self._finished)
            else:
                running.append((reference, counts))
        self._threads = running

    def entries(self) -> list[Entry]:
        """Every site with its count, the busiest first."""
        with self._lock:
            total: _Total = {}
            for site, tally in self._finished.items():
                _none_yet(total, site).add(tally)
            for _, counts in self._threads:
                counts.add_to(total)
        entries = [Entry(s, t.count, t.moved, t.seconds) for s, t in total.items()]
        return sorted(entries, key=lambda entry: -entry.count)

    def total(self, kind: str | None = None) -> int:
        """How many events there were, of one kind or of all."""
        return _sum(self.entries(), kind)


def _sum(entries: Iterable[Entry], kind: str | None) -> int:
    return sum(entry.count for entry in entries if kind in (None, entry.site.kind))


def _none_yet(total: _Total, site: Site) -> _Tally:
    """The tally of a site in a total, an empty one if it has none."""
    tally = total.get(site)
    if tally is None:
        tally = total[site] = _Tally()
        tally.count = 0
    return tally


def _key(frame: types.FrameType | Place, what: Event) -> _Key:
    code = frame.f_code
    function = getattr(code, "co_qualname", code.co_name)
    return code.co_filename, function, frame.f_lineno, what


def _site(key: _Key) -> Site:
    file, function, line, what = key
    return Site(file, line, function, what.kind, what.asked, what.given, what.reason)

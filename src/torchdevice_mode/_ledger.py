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

__all__ = ["Entry", "Ledger", "Site"]


@dataclass(frozen=True, slots=True)
class Site:
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


# The code object stands for file and function: hashing it is cheaper than hashing strings.
_Key = tuple[types.CodeType | None, int, str, str, str, str]


class _Counts(Counter[_Key]):
    """One thread's counts; weakly referable, so that a finished thread can be told."""


class Ledger:
    """Counts by call site. Thread-safe; one for each session of redirection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._local = threading.local()
        self._threads: list[tuple[weakref.ref[threading.Thread], _Counts]] = []
        self._finished: Counter[_Key] = Counter()

    def count(
        self,
        frame: types.FrameType | None,
        kind: str,
        asked: str,
        given: str,
        reason: str,
    ) -> bool:
        """Count one event.

        Args:
            frame: The user's frame, or None where it cannot be known.
            kind: What happened; see `Site`.
            asked: What was asked for.
            given: What was given.
            reason: Why.

        Returns:
            True the first time this thread passes the site.
        """
        key = (
            (None, 0, kind, asked, given, reason)
            if frame is None
            else (frame.f_code, frame.f_lineno, kind, asked, given, reason)
        )
        try:
            counts = self._local.counts
        except AttributeError:
            counts = self._register()
        if key in counts:
            counts[key] += 1
            return False
        counts[key] = 1
        return True

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
                self._finished.update(counts)
            else:
                running.append((reference, counts))
        self._threads = running

    def entries(self) -> list[Entry]:
        """Every site with its count, the busiest first."""
        with self._lock:
            total = Counter(self._finished)
            for _, counts in self._threads:
                total.update(counts.copy())
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
    code, line, kind, asked, given, reason = key
    file = code.co_filename if code else "<unknown>"
    function = getattr(code, "co_qualname", code.co_name) if code else "<unknown>"
    return Site(file, line, function, kind, asked, given, reason)

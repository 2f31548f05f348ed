"""What is seen while a suite runs: a bar where rich and a terminal are there, else lines."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, TextIO

from .._printing import writable
from .document import shown_unit
from .results import UnitResult

__all__ = ["Progress", "progress_on"]


class Progress:
    """A line for each unit that ends.

    Args:
        stream: Where to.
        total: How many units there are to run, all runs together.
    """

    def __init__(self, stream: TextIO, total: int) -> None:
        self._stream = stream
        self._total = total
        self._done = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def done(self, result: UnitResult) -> None:
        """Say that a unit has ended."""
        self._done += 1
        width = len(str(self._total))
        self._write(f"[{self._done:>{width}}/{self._total}] {line(result)}")

    def _write(self, words: str) -> None:
        with suppress(OSError):  # nobody listens, which is no reason to end
            print(writable(words, self._stream), file=self._stream, flush=True)


class _Bar(Progress):
    """The same above a bar, by rich."""

    def __init__(self, stream: TextIO, total: int) -> None:
        super().__init__(stream, total)
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._bar: Any = RichProgress(*columns, console=Console(file=stream), transient=True)
        self._task = self._bar.add_task("files", total=total)
        self._failing = 0

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def done(self, result: UnitResult) -> None:
        super().done(result)
        self._bar.advance(self._task)

    def _write(self, words: str) -> None:
        self._bar.console.print(words, markup=False, highlight=False)


class _Silent(Progress):
    def _write(self, words: str) -> None:
        pass


def progress_on(stream: TextIO, total: int, *, quiet: bool) -> Progress:
    """What suits the stream."""
    if quiet:
        return _Silent(stream, total)
    if stream.isatty() and find_spec("rich") is not None:
        return _Bar(stream, total)
    return Progress(stream, total)


def line(result: UnitResult) -> str:
    """What came out of a unit."""
    counts = Counter(one.outcome for one in result.results.values())
    outcomes = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
    problem = f"; {result.problem}" if result.problem else ""
    said = outcomes or "no tests"
    return f"{result.run:<10} {shown_unit(result.unit)}: {said} ({result.seconds:.1f} s){problem}"

"""The program's source files: read as leniently as can be, since a report must come out."""

from __future__ import annotations

import linecache
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ._names import names_by_line

__all__ = ["Source", "read_source"]

# Beyond this, a file is no program that somebody reads; names are not looked for in it.
_MOST_LINES = 20_000


@dataclass(frozen=True)
class Source:
    """One source file.

    Attributes:
        file: File name as Python has it.
        lines: Its lines, without their ends; empty where it cannot be read.
        changed: Whether it was written after the program began, so that lines may not fit.
    """

    file: str
    lines: tuple[str, ...] = field(repr=False)
    changed: bool = False

    def line(self, number: int) -> str:
        """The text of a line; empty where there is none."""
        return self.lines[number - 1] if 0 < number <= len(self.lines) else ""

    @cached_property
    def names(self) -> Mapping[int, tuple[str, ...]]:
        """Names of torch in the statement at each line, as `_suggestions` knows them."""
        if len(self.lines) > _MOST_LINES:
            return {}
        return names_by_line("\n".join(self.lines))


def read_source(file: str, *, since: float | None = None) -> Source:
    """Read a source file: from where it lies, or from what Python keeps of it.

    Args:
        file: File name as a code object has it; also of a cell of a notebook or a zip archive.
        since: When the program began, in seconds since the epoch.

    Returns:
        The source; without lines where there is none, as for `python -c`.
    """
    lines = _lines_on_disk(file)
    if lines is None:
        # Cells of notebooks, modules in archives and, of late, `python -c` are kept there.
        try:
            kept = linecache.getlines(file)
        except ValueError:  # no name that a file can have
            kept = []
        return Source(file, tuple(line.rstrip("\r\n") for line in kept))
    try:
        changed = since is not None and Path(file).stat().st_mtime > since
    except OSError:
        changed = False
    return Source(file, tuple(lines), changed)


def _lines_on_disk(file: str) -> list[str] | None:
    try:
        with open(file, "rb") as binary:  # noqa: PTH123 - file names are text here, not paths
            data = binary.read()
    except (OSError, ValueError):
        return None
    # As Python counts lines: `splitlines` would also cut at form feeds and in Unicode's ways.
    text = data.decode(_encoding(data), "replace")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines and not lines[-1] else lines


def _encoding(data: bytes) -> str:
    """The encoding that a source file declares; UTF-8 where it declares none that there is."""
    try:
        return tokenize.detect_encoding(iter(data.splitlines(keepends=True)[:2]).__next__)[0]
    except (SyntaxError, StopIteration):
        return "utf-8"

"""How figures and places are written, wherever the user reads them."""

from __future__ import annotations

import os

__all__ = [
    "change",
    "cost",
    "counted",
    "place_of",
    "printable",
    "relative",
    "setting",
    "size",
    "time",
]

_CONTROL = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {127: 0x2421}


def counted(count: int, one: str, several: str = "") -> str:
    """A number with its noun, whose plural ends in s unless it is given: `1 test`, `2 tests`."""
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"


def printable(text: str) -> str:
    """Text without control characters: each becomes the sign that stands for it."""
    return text.translate(_CONTROL)


def relative(file: str, folder: str) -> str:
    """A file's name as the user would write it: from the program's folder where that is shorter."""
    if not folder or not os.path.isabs(file):  # noqa: PTH117 - file names are text here, not paths
        return file
    try:
        found = os.path.relpath(file, folder)
    except ValueError:  # another drive
        return file
    return found if len(found) < len(file) else file


def place_of(file: str, line: int, folder: str = "") -> str:
    """A place as editors and terminals read it."""
    short = relative(file, folder)
    return f"{short}:{line}" if line else short


def size(count: float) -> str:
    """Bytes in the unit that suits them, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def time(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds >= 60:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes:,} min {rest:02} s"
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return "0 s" if seconds <= 0 else "< 1 µs"


def cost(seconds: float, moved: int) -> str:
    """Time and bytes of an entry; empty where neither was measured."""
    parts = ([time(seconds)] if seconds else []) + ([f"{size(moved)} copied"] if moved else [])
    return ", ".join(parts)


def setting(value: object) -> str:
    """A setting's value."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not set" if value is None else str(value)


def change(asked: str, given: str) -> str:
    """What was asked for, and what that became."""
    return f"{asked} → {given}"

"""Why tests fail: errors that differ only in numbers, addresses and file names are one cause."""

from __future__ import annotations

import re
from pathlib import Path

from .stream import Error

__all__ = ["Cause", "cause_of", "normalised"]

Cause = tuple[str, str, str]
"""Type, message and place, without what changes from test to test."""

_LONGEST = 300
_SAYS_NOTHING = re.compile(r"(assert (False|not True))?")
_A_TEST = re.compile(r"test_.*|.*_tests?\.py")
_CHANGES = (
    # Objects, temporary folders, and numbers of all kinds.
    (re.compile(r"0x[0-9a-fA-F]+"), "0x..."),
    (re.compile(r"(/[^\s'\":,()]*)?/(tmp|pytest-of-[^/\s]+|var/folders)/[^\s'\",:()]*"), "<path>"),
    (re.compile(r"(?<![\w.])[-+]?\d+(\.\d+)?([eE][-+]?\d+)?(?![\w])"), "N"),
    (re.compile(r"\bN(\s*,\s*N)+\b"), "N"),
)
# Which device it was is what a comparison of runs is about; which of several is not.
_DEVICE = re.compile(r"\b(cuda|mps|cpu|xpu):N\b")


def cause_of(error: Error | None, unit: str = "") -> Cause:
    """The cause that an error belongs to.

    Args:
        error: The error, or None where nothing is known of it.
        unit: The file of tests that it comes from.

    Returns:
        What equal errors have in common.
    """
    if error is None:
        return ("", "", "")
    # How a process ended is told by a number, its exit code.
    message = error.message if error.type == "Crash" else normalised(error.message)
    file, _, function = error.place.partition(" in ")
    path = Path(file.rpartition(":")[0] or file)
    is_test = str(path) == unit or _A_TEST.fullmatch(path.name)
    # A place in the tests themselves would tell all tests apart, if the message does not.
    if not function or (is_test and not _SAYS_NOTHING.fullmatch(message)):
        return (error.type, message, "")
    return (error.type, message, f"{'/'.join(path.parts[-2:])} in {function}")


def normalised(message: str) -> str:
    """The first line that says something, without what changes from test to test."""
    line = next((line.strip() for line in message.splitlines() if line.strip()), "")
    for pattern, text in _CHANGES:
        line = pattern.sub(text, line)
    line = _DEVICE.sub(r"\1", line)
    return line[:_LONGEST]

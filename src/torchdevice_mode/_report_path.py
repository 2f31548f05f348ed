"""Where a report can be written: asked when settings are read, and again when it is written."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["ENDINGS", "fault_of"]

ENDINGS = (".html", ".json", ".txt")
"""Each names a form."""


def fault_of(path: Path) -> str:
    """What keeps a report from being written to a file, as far as can be told before.

    Args:
        path: The file, absolute.

    Returns:
        The end of a sentence that begins with the file's name; empty where nothing does.
    """
    if path.suffix.lower() not in ENDINGS:
        endings = f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
        return f"names no form of report: give a file that ends in {endings}."
    if path.is_dir():
        return "is a folder: give a file in it."
    if not path.parent.is_dir():
        return f"cannot be written, as there is no folder {path.parent}: give one that there is."
    if not os.access(path.parent, os.W_OK):
        return f"cannot be written, as {path.parent} is not yours to write in: give another folder."
    return ""

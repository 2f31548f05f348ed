"""Warnings of torch's C++ code, shown at the user's line.

Python says that they come from the innermost Python frame, which is this package's while it
hands a call on: their file would be ours, and their line one that the user cannot change.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._log import user_frame
from .._patches import Patch

__all__ = ["PATCHES"]

_HERE = str(Path(__file__).parents[1])


def _show_at_user_line(show: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(show)
    def show_at_user_line(message: Any) -> None:
        if message.filename.startswith(_HERE):
            frame = user_frame(sys._getframe(1))
            if frame is not None:
                message.filename, message.lineno = frame.f_code.co_filename, frame.f_lineno
        show(message)

    return show_at_user_line


PATCHES: tuple[Patch, ...] = (
    Patch(
        lambda: warnings,
        "_showwarnmsg",
        _show_at_user_line,
        "Python takes the frame that called into C++ for the one to blame",
    ),
)

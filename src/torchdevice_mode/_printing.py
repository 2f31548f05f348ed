"""Prints what a command has to say, whatever standard output is."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from .errors import TorchDeviceError

__all__ = ["print_out", "writable"]


def print_out(text: str) -> None:
    """Print; what the terminal's encoding lacks is escaped, and who stops reading may.

    Args:
        text: What to print, without the last end of line.

    Raises:
        TorchDeviceError: If it cannot be written, to a full disk say.
    """
    try:
        print(writable(text, sys.stdout), flush=True)
    except BrokenPipeError:
        _let_go()
    except OSError as error:
        _let_go()
        raise TorchDeviceError(
            f"cannot write to standard output ({error.strerror}): send it elsewhere."
        ) from None


def writable(text: str, stream: TextIO) -> str:
    """The text with escapes for what a stream's encoding lacks."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _let_go() -> None:
    """What is still in the buffer has to go somewhere when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

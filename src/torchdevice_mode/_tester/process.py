"""Runs a command in a process group of its own, with a time limit, its output in a file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

__all__ = ["Ended", "Stopped", "run", "said"]

_LOOK_AGAIN = 0.05
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# For writing where it stands, when the time is up.
_LAST_WORDS = 1.0


class Stopped(Exception):  # noqa: N818 - no error: the user's wish
    """Everything is to stop; the process has been ended."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended.

    Attributes:
        code: Its exit code; below zero the signal that ended it.
        timed_out: Whether it was ended since its time was up.
        seconds: How long it ran.
    """

    code: int
    timed_out: bool
    seconds: float

    @property
    def how(self) -> str:
        """In words, after "the process"."""
        if self.timed_out:
            return f"was ended after {self.seconds:,.0f} s, its time limit"
        if self.code >= 0:
            return f"ended with exit code {self.code}"
        with suppress(ValueError):
            name = signal.Signals(-self.code).name
            hint = ", as where memory runs out" if name == "SIGKILL" else ""
            return f"was ended by {name}{hint}"
        return f"was ended by signal {-self.code}"


def run(
    command: Sequence[str],
    *,
    environ: Mapping[str, str],
    log: Path,
    limit: float,
    stop: threading.Event,
) -> Ended:
    """Run a command to its end, and end what it started.

    Args:
        command: The program and its arguments.
        environ: Its environment.
        log: Where its output goes; it is added to what is there.
        limit: How many seconds it may run.
        stop: Set by another thread to end it.

    Returns:
        How it ended.

    Raises:
        Stopped: If `stop` was set; the process has ended then, too.
        OSError: If it cannot be started.
    """
    began = monotonic()
    with (
        log.open("ab") as output,
        subprocess.Popen(
            command,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Signals meant for the terminal's program reach that one only, which ends this.
            start_new_session=True,
        ) as process,
    ):
        timed_out = False
        try:
            while True:
                try:
                    process.wait(_LOOK_AGAIN)
                    break
                except subprocess.TimeoutExpired:
                    if stop.is_set():
                        raise Stopped from None
                    if monotonic() - began >= limit:
                        timed_out = True
                        _ask_where(process)
                        break
        finally:
            # What it left running has nobody to wait for it.
            _end(process)
    return Ended(process.returncode, timed_out, monotonic() - began)


def _ask_where(process: subprocess.Popen[bytes]) -> None:
    """Have the process write where its threads stand; one that does not listen ends by it."""
    if sys.platform != "win32":
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGUSR2)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LAST_WORDS)


def _end(process: subprocess.Popen[bytes]) -> None:
    if sys.platform == "win32":
        process.kill()
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def said(log: Path, *, most: int = 4_000) -> str:
    """The end of what a process wrote."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most))
            return _COLOURS.sub("", file.read().decode("utf-8", "replace")).strip()
    except OSError:
        return ""

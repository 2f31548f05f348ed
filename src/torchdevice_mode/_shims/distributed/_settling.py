"""Waiting, before a process ends, until gloo's threads rest.

Who waits for a collective may go on before gloo's thread is done with it: the thread tells them
first, and lets go of its work then. To that torch has given the state of the thread that asked for
the collective, modes included, and futures run Python there. A thread of C++ that asks for Python
while the interpreter ends is ended by it, which aborts the process: up to Python 3.13, with glibc,
and in plain torch as well (pytorch issue 190489), where tensors alone are let go of.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import time
from pathlib import Path

__all__ = ["settle_at_end", "wait_until_at_rest"]

_THREADS = "pt_gloo_runloop"  # as torch's ProcessGroupGloo names them
_TASKS = Path("/proc/self/task")
_SHOWN = ("State:", "voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:")
_ASLEEP = "State:\tS (sleeping)"
_PAUSE = 0.001


@functools.cache
def settle_at_end() -> None:
    """Let this process wait for gloo's threads before it ends, which costs it a millisecond."""
    atexit.register(wait_until_at_rest)


def wait_until_at_rest(longest: float = 5.0) -> None:
    """Wait until no thread of gloo's runs, or wants to.

    Two looks must find all of them asleep, and not woken in between, as who waits for Python would
    have been. Where the system does not show threads (Linux does), they get the time between.

    Args:
        longest: Seconds after which a thread that still computes is left alone.
    """
    end = time.monotonic() + longest
    before = None
    while (now := _looks()) != before or any(_ASLEEP not in lines for lines in now.values()):
        if time.monotonic() > end:
            return
        before = now
        time.sleep(_PAUSE)  # without the interpreter's lock


def _looks() -> dict[str, tuple[str, ...]]:
    """By thread, whether it sleeps and how often it stopped."""
    found = {}
    for task in _TASKS.iterdir() if _TASKS.exists() else ():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if (task / "comm").read_text().strip() == _THREADS:
                lines = (task / "status").read_text().splitlines()
                found[task.name] = tuple(line for line in lines if line.startswith(_SHOWN))
    return found

"""The CPU override: a process-wide toggle, and a context for one thread or async task.

While it is on, requests for the CPU and requests without a device mean the CPU, as in plain
torch. `"cpu:-1"` flips the toggle; `cpu_override()` holds it on within a block.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["active", "cpu_override", "reset", "toggle"]

_lock = threading.Lock()
_toggled = False
_held: ContextVar[bool] = ContextVar("torchdevice_cpu_override", default=False)
# Until somebody uses the override, the hot path reads this one boolean and no ContextVar.
_ever_held = False


def active() -> bool:
    """Whether the override is on in this thread or task."""
    return _toggled or (_ever_held and _held.get())


def toggle() -> bool:
    """Flip the process-wide override and return its new state."""
    global _toggled
    with _lock:
        _toggled = not _toggled
        return _toggled


@contextmanager
def cpu_override() -> Iterator[None]:
    """Keep requests for the CPU, and requests without a device, on the CPU in this block.

    Nests, holds for the current thread or async task only, and is undone on exit.
    """
    global _ever_held
    _ever_held = True
    token = _held.set(True)
    try:
        yield
    finally:
        _held.reset(token)


def reset() -> None:
    """Turn the process-wide toggle off; the end of the last redirection does this."""
    global _toggled
    with _lock:
        _toggled = False

"""Which redirection holds in this thread: read by shims and seams, written by `_session` alone.

Patched attributes of torch are process-wide, while a `redirect()` block holds for its thread.
So everything that is patched asks here first, and is plain torch where the answer is None.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch.compiler import is_compiling

from ._context import Context, by_number

__all__ = [
    "carried_to_workers",
    "current",
    "everywhere",
    "fall_back_to",
    "held",
    "join",
    "joined_late",
    "set_everywhere",
]

_TLS_KEY = "torchdevice_context"
_F = TypeVar("_F", bound=Callable[..., Any])


class _Local(threading.local):
    """What holds in this thread.

    Attributes:
        stack: The contexts entered here, innermost last; None stands for `native()`.
        joined: The redirection of all threads whose mode this thread was given.
        late: Whether it was given only when it asked.
    """

    def __init__(self) -> None:
        self.stack: list[Context | None] = []
        self.joined: Context | None = None
        self.late = False


_local = _Local()
_everywhere: Context | None = None
# Gives the mode of a redirection of all threads to this one, which was running before it, or takes
# it away again.
_give_mode: Callable[[Context | None], None] | None = None


def current() -> Context | None:
    """The context that holds in this thread, or None for plain torch."""
    if is_compiling():
        return by_number(_number_while_compiling())
    return _current(join=True)


def _current(*, join: bool) -> Context | None:
    stack = _local.stack
    while stack:
        innermost = stack[-1]
        if innermost is None or innermost.alive:
            return innermost
        stack.pop()  # inherited from a thread whose block ended meanwhile
    found = carried()
    if found is None and join and _everywhere is not _local.joined:
        _join(_everywhere)
    return found or _everywhere


def drawn_on_cpu() -> bool:
    """Whether the redirection of this thread draws random numbers on the CPU."""
    context = current()
    return context is not None and context.settings.rng == "cpu"


def _join(context: Context | None) -> None:
    _local.joined = context
    if _give_mode is not None:
        _give_mode(context)
        _local.late = context is not None


def _number_while_compiling() -> int:
    """The number of the context that holds, as Dynamo runs it: once, while it traces.

    Its code is used under modes of the same classes only, and those differ by this number.
    """
    context = _current(join=False)  # Dynamo has put the modes aside
    return -1 if context is None else context.number


# What `torch.compiler.assume_constant_result` sets, without importing Dynamo for it: a second.
_number_while_compiling._dynamo_marked_constant = True  # type: ignore[attr-defined]


@contextmanager
def held(context: Context | None) -> Iterator[None]:
    """Let a context (None: plain torch) hold in this thread for a block."""
    push(context)
    try:
        yield
    finally:
        pop(context)


def carried() -> Context | None:
    """The context that torch's own thread-local state brought here.

    torch hands that state from the thread that calls `backward` to the engine's workers, which
    Python's thread-local state does not reach.
    """
    if not torch._C._is_key_in_tls(_TLS_KEY):
        return None
    found: Context | None = torch._C._get_obj_in_tls(_TLS_KEY)
    return found


@contextmanager
def carried_to_workers(context: Context) -> Iterator[None]:
    """Let torch hand a context to the worker threads that it starts or uses in a block."""
    before = carried()
    _stash(context)
    try:
        yield
    finally:
        _stash(before)


def _stash(value: Context | None) -> None:
    """Put a value into torch's thread-local state, owned once more."""
    if value is None and hasattr(torch._C, "_remove_obj_from_tls"):
        # A thread that ends together with the interpreter must leave no object there (torch 2.13).
        torch._C._remove_obj_from_tls(_TLS_KEY)
        return
    if _stash_steals():
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))
    torch._C._stash_obj_in_tls(_TLS_KEY, value)


@functools.cache
def _stash_steals() -> bool:
    """Whether torch takes a reference that it was not given, as 2.11 does and 2.13 does not."""
    probe = object()
    before = sys.getrefcount(probe)
    # Stays there for good, and is kept alive here: it must not be freed twice.
    torch._C._stash_obj_in_tls(_TLS_KEY + "_probe", probe)
    steals = sys.getrefcount(probe) == before
    _kept.append(probe)
    return steals


_kept: list[object] = []


def push(context: Context | None) -> None:
    """Let a context hold in this thread until it is popped."""
    _local.stack.append(context)


def pop(context: Context | None) -> None:
    """End the innermost holding of a context in this thread."""
    stack = _local.stack
    for position in range(len(stack) - 1, -1, -1):
        if stack[position] is context:
            del stack[position]
            return


def set_everywhere(context: Context | None, give_mode: Callable[[Context | None], None]) -> None:
    """Let a context hold in every thread that holds none of its own.

    Args:
        context: The context; None to end the present one.
        give_mode: Called with it in each thread, this one first, that asks what holds.
    """
    global _everywhere, _give_mode
    _everywhere, _give_mode = context, give_mode
    _current(join=True)
    _local.late = False


def join(context: Context) -> None:
    """Say that this thread has the mode of a redirection of all threads."""
    _local.joined = context


def joined_late() -> bool:
    """Whether this thread was without a mode until it asked; no longer true once asked for."""
    late, _local.late = _local.late, False
    return late


def everywhere() -> Context | None:
    """The redirection of all threads."""
    return _everywhere


def fall_back_to(original: Callable[..., Any] | None) -> Callable[[_F], _F]:
    """Decorate a replacement so that it is the original where no redirection holds.

    Args:
        original: What is replaced; None where there was nothing.

    Returns:
        A decorator. The replacement keeps the original's name and signature for inspection.
    """

    def decorate(replacement: _F) -> _F:
        @functools.wraps(original if original is not None else replacement)
        def answer(*args: Any, **kwargs: Any) -> Any:
            if original is not None and current() is None:
                return original(*args, **kwargs)
            return replacement(*args, **kwargs)

        return answer  # type: ignore[return-value]

    return decorate

"""Threads: a mode belongs to a thread, so a thread that starts must be given one.

`threading.setprofile` runs a hook once in each new thread; the hook enters the mode and takes
itself off. Pools that were started earlier are reached through the work they are given, and the
other threads that are running when `enable()` is called by such a hook as well.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import thread as pool
from typing import Any

from .. import _active
from .._context import Context
from .._modes import dispatch_modes, entered, innermost, replace_innermost, take_off
from .._patches import Hook, Patch
from ._running_threads import set_profile_in_others

__all__ = ["PATCHES", "give_mode", "reach_running_threads"]

# What each thread inherits from the thread that started it; entries vanish with the threads.
_inherited: weakref.WeakKeyDictionary[threading.Thread, Context] = weakref.WeakKeyDictionary()
_chained: list[Any] = []
# What a thread was given; Python deletes it in that thread, as the last thing that it does there.
_local = threading.local()


def _remember_context(start: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(start)
    def remember_and_start(self: threading.Thread) -> None:
        context = _active.current()
        if context is not None:
            _inherited[self] = context
        start(self)

    return remember_and_start


def _enter_in_new_thread(frame: Any, event: str, arg: Any) -> None:
    """The profile hook: runs at the first event of a new thread, and never again there."""
    previous = _chained[-1] if _chained else None
    sys.setprofile(previous)
    context = _inherited.pop(threading.current_thread(), None)
    if context is not None and context.alive:
        if context is _active.everywhere():
            _active.join(context)
        else:
            _active.push(context)
        give_mode(context)
    if previous is not None:
        previous(frame, event, arg)


class _Given:
    """Modes on a thread's stacks, which leave them with the thread, if not before.

    They must not stay there: torch would let go of them after Python is done with the thread, and
    wait for the interpreter then. Where that is ending too, such a thread ends the process, by an
    abort.
    """

    def __init__(self, context: Context) -> None:
        self._thread = threading.get_ident()
        self._mode = context.mode
        replace_innermost(self._mode)
        self._dispatch_modes = dispatch_modes(context)

    def leave(self) -> None:
        """Take the modes off, in the thread that has them."""
        self._thread = 0
        self._dispatch_modes.close()
        take_off(self._mode)

    def __del__(
        self,
        is_finalizing: Callable[[], bool] = sys.is_finalizing,
        ident: Any = threading.get_ident,
        use_state: Callable[[], object] = ctypes.pythonapi.PyGILState_Ensure,
    ) -> None:
        # An interpreter that ends deletes what is left of its threads, and modules before that.
        if not is_finalizing() and ident() == self._thread:
            # The thread's state is being deleted. In a thread of C++ nobody counts as its user any
            # more, and torch, which counts itself in and out when it lets go of a mode, would
            # delete it as the last one: under our feet. This use of it never ends.
            use_state()
            self.leave()


def give_mode(context: Context | None) -> None:
    """Let this thread have a redirection's modes until it ends, if it has none; None takes them."""
    given = getattr(_local, "given", None)
    if given is not None and (context is None or innermost() is None):
        _local.given = None
        given.leave()  # first, as it may be that of a redirection which ended meanwhile
    if context is not None and innermost() is None:
        _local.given = _Given(context)


def reach_running_threads() -> None:
    """Have each other running thread ask what holds, which gives or takes the mode of `enable()`.

    A profiler that is on would be lost in the others, so it is left alone; then they join when
    they first ask `torch.cuda` something.
    """
    if sys.getprofile() is None and len(sys._current_frames()) > 1:
        set_profile_in_others(_ask_once)


def _ask_once(frame: Any, event: str, arg: Any) -> None:
    sys.setprofile(None)
    _active.current()


def _install_profile_hook() -> Callable[[], None]:
    _chained.append(threading.getprofile())
    threading.setprofile(_enter_in_new_thread)

    def remove() -> None:
        previous = _chained.pop()
        # Somebody may have put another hook in place of ours since; that one stays.
        if threading.getprofile() is _enter_in_new_thread:
            threading.setprofile(previous)

    return remove


def _carry_context(initialise: Callable[..., None]) -> Callable[..., None]:
    """A work item runs under the redirection of the thread that submitted it."""

    @functools.wraps(initialise)
    def carry(self: Any, future: Any, work: Any, *rest: Any, **named: Any) -> None:
        context = _active.current()
        if context is not None:
            work = _carried(context, work)
        initialise(self, future, work, *rest, **named)

    return carry


def _carried(context: Context, work: Any) -> Any:
    """A function, or from Python 3.14 a tuple that begins with it; pools of processes pickle."""
    if callable(work):
        return _under(context, work)
    if isinstance(work, tuple) and work and callable(work[0]):
        return _under(context, work[0]), *work[1:]
    return work


def _under(context: Context, fn: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not context.alive or (_active.current() is context and innermost() is not None):
            return fn(*args, **kwargs)
        with _active.held(context), entered(context), dispatch_modes(context):
            return fn(*args, **kwargs)

    return run


PATCHES: tuple[Patch | Hook, ...] = (
    Hook(_install_profile_hook, "runs once in each new thread, which has no modes of its own"),
    Patch(
        lambda: threading.Thread,
        "start",
        _remember_context,
        "only here are the thread that starts and the one that is started both known",
    ),
    Patch(
        lambda: pool._WorkItem,
        "__init__",
        _carry_context,
        "workers of a pool started earlier have no mode, and no hook runs in them again",
    ),
)

"""The one place with global state: who has redirection on, and what of torch is replaced.

The first redirection of the process installs the patches, the last takes them back. A mode is
pushed on the entering thread's stack; threads started from it inherit it.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import ExitStack
from multiprocessing.util import Finalize, register_after_fork
from typing import Any

from . import _active, _override
from ._children import Exported, Family, variables_for
from ._context import Context, after_fork
from ._fallback import kernels
from ._function_mode import RedirectFunctionMode
from ._ledger import Ledger
from ._log import configure, logger, warn_once
from ._machine import Machine
from ._modes import (
    dispatch_modes,
    plain_torch,
    replace_innermost,
    restore_stack,
    retire,
)
from ._patches import Patches
from ._probe import probe
from ._settings import REPORT, Environment, Settings, gather
from ._shims import ALL_PATCHES, threads

__all__ = [
    "Entry",
    "disable",
    "enable",
    "enabled_settings",
    "enter",
    "family",
    "latest",
    "ledger",
    "machine",
    "new_context",
    "patches",
]

_lock = threading.RLock()
_users = 0
patches = Patches()
ledger = Ledger()
family = Family(ledger, os.environ)
# The redirection that was entered last, for a report that is made when all have ended.
latest: Context | None = None
# Where the environment asks for reports of this process.
_reports: tuple[str, ...] = ()

# Read off the versions that the project's tests have run with.
_TESTED_TORCH = ((2, 11), (2, 13))
_TESTED_PLATFORMS = frozenset({"linux", "darwin"})


def machine() -> Machine:
    """The facts about this machine, from plain torch."""
    with plain_torch():
        return probe()


def new_context(settings: Settings) -> Context | None:
    """The context for settings, or None where this platform or torch was never tested with.

    Raises:
        TargetError: If the target asked for is not on this machine.
        SettingsError: If the operator to verify is none.
    """
    if settings.verify is not None:
        from ._verify import check_operator

        check_operator(settings.verify)
    here = machine()
    context = Context(here, settings, ledger)
    context.mode = RedirectFunctionMode(context)
    context.open_in_child = open_in_child
    context.variables_for_children = _variables_for_children
    context.tell_parent = family.leave
    if not settings.allow_untested and not _is_tested(here):
        warn_once(
            "untested",
            f"torchdevice was never tested with torch {here.torch_version} on {here.platform}, so "
            f"the program runs on plain torch: set TORCH_ALLOW_REDIRECTS=true to redirect anyway.",
        )
        return None
    return context


def _is_tested(here: Machine) -> bool:
    version = tuple(int(part) for part in here.torch_version.split(".")[:2])
    lowest, highest = _TESTED_TORCH
    return lowest <= version <= highest and here.platform in _TESTED_PLATFORMS


class Entry:
    """One entering of a redirection (or of plain torch, with None) in this thread.

    Args:
        context: The redirection; None for `native()`.
    """

    def __init__(self, context: Context | None) -> None:
        self.context = context
        self._dispatch = ExitStack()
        self._before: list[Any] = []

    def open(self) -> None:
        """Enter; nothing is left half entered where this raises."""
        mode = None
        if self.context is not None:
            with _lock:
                _acquire(self.context)
                _use(self.context)
                mode = self.context.mode
        _active.push(self.context)
        self._before = replace_innermost(mode)
        if self.context is not None:
            self._dispatch.enter_context(dispatch_modes(self.context))

    def close(self) -> None:
        """Leave, also after an exception, and put torch back if nobody else redirects."""
        self._dispatch.close()
        _active.pop(self.context)
        restore_stack(self._before)
        _active.current()  # gives this thread the mode of what was enabled meanwhile
        if self.context is not None:
            with _lock:
                _leave(self.context)
                if not self.context.alive:
                    # Threads that inherited this mode keep it on their stacks, where it is
                    # inert; the next entry uses a fresh one.
                    retire(self.context.mode)
                    self.context.mode = RedirectFunctionMode(self.context)
            _release()


def enter(context: Context | None) -> Entry:
    """Enter a redirection in this thread and return what leaves it."""
    entry = Entry(context)
    entry.open()
    return entry


def _acquire(context: Context) -> None:
    global _users
    with _lock:
        if _users == 0:
            configure()
            _follow_processes()
            patches.install(ALL_PATCHES)
            reason = context.target_reason
            logger.debug("redirecting to %s (%s) with %s", context.target, reason, context.settings)
        kernels.install(context.target.type)
        _users += 1


def _release() -> None:
    global _users
    with _lock:
        _users -= 1
        if _users == 0:
            kernels.remove()
            patches.restore()
            _override.reset()
            logger.debug("torch is as it was")


def _use(context: Context) -> None:
    """Count an entering of a context, before its mode is used: who leaves last retires that."""
    global latest
    latest = context
    if not context.alive:
        try:
            with ExitStack() as undo:
                _begin(context, undo)
                context.at_end = undo.pop_all()
        except BaseException:
            _release()
            raise
    context.alive += 1


def _begin(context: Context, undo: ExitStack) -> None:
    """What ends with the context; what few settings ask for is not imported where they do not."""
    undo.callback(context.kept.look)
    if context.settings.rng == "cpu":
        from ._shims import cpu_random

        cpu_random.begin(context.target.type)
        undo.callback(cpu_random.end, context.target.type)
    if context.settings.substitutes:
        from ._substitutes import begin, end

        begin(context.settings.substitutes, context.target.type)
        undo.callback(end, context.settings.substitutes)


def _leave(context: Context) -> None:
    context.alive -= 1
    if not context.alive:
        context.at_end.close()


# --- everywhere -----------------------------------------------------------------------------


class _Everywhere:
    """A redirection of all threads: what `enable()` makes and `disable()` ends."""

    def __init__(self, context: Context) -> None:
        self.context = context
        _acquire(context)
        _use(context)
        self.exported = Exported(_variables_for_children(context.settings), os.environ)
        _active.set_everywhere(context, threads.give_mode)
        threads.reach_running_threads()

    def end(self) -> None:
        self.exported.take_back()
        _active.set_everywhere(None, threads.give_mode)
        _leave(self.context)
        retire(self.context.mode)
        threads.reach_running_threads()
        _release()


_everywhere: _Everywhere | None = None


def enable(settings: Settings) -> Context | None:
    """Redirect in all threads until `disable()`; other settings replace those in force.

    Raises:
        TargetError: If the target asked for is not on this machine; nothing changes then.
    """
    global _everywhere
    with _lock:
        family.join(os.environ)
        context = new_context(settings)
        if context is None:
            return None
        if _everywhere is not None:
            if _everywhere.context.settings == settings:
                return _everywhere.context
            disable()
        _everywhere = _Everywhere(context)
        return context


def disable() -> None:
    """End what `enable()` began; does nothing where nothing is enabled."""
    global _everywhere
    with _lock:
        if _everywhere is not None:
            everywhere, _everywhere = _everywhere, None
            everywhere.end()


def is_enabled() -> bool:
    """Whether `enable()` is in force."""
    return _everywhere is not None


def enabled_settings() -> Settings | None:
    """The settings that `enable()` put in force; None where nothing is enabled."""
    return None if _everywhere is None else _everywhere.context.settings


def open_in_child(variables: dict[str, str]) -> Entry | None:
    """Enter, in a worker process, the redirection described by environment variables.

    Args:
        variables: What `Settings.to_environment` gave in the parent.

    Returns:
        The entry, to be left open until the process ends; None where redirection is refused.
    """
    context = new_context(Settings.load(variables))
    return None if context is None else enter(context)


# --- other processes ------------------------------------------------------------------------


def _variables_for_children(settings: Settings) -> dict[str, str | None]:
    """The environment variables by which a process that is started redirects as this one."""
    simulate = sys.modules.get(f"{__package__}.simulate")
    run = {"simulate": None if simulate is None else simulate.loaded_device()}
    return variables_for(settings, run, family.folder)


_following = False


def _follow_processes() -> None:
    """Have forked children begin anew, and ledgers brought together when a process ends.

    Once a process; that costs the program nothing, also when no redirection is on.
    """
    global _following, _reports
    if _following:
        return
    if family.is_root:
        _reports = gather((REPORT,), [Environment(os.environ)])[REPORT.name].value
    _following = True
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_begin_forked
        )
    # multiprocessing forgets, in a child, what was to be done at the end of the parent.
    register_after_fork(family, lambda _: _finish_at_end())
    _finish_at_end()


def _begin_forked() -> None:
    _lock.release()
    family.after_fork()
    after_fork()
    _finish_at_end()


def _finish_at_end() -> None:
    # Not by `atexit`, which processes of multiprocessing end without, and which would come before
    # multiprocessing waits for its children.
    Finalize(None, _finish, exitpriority=-100)


def _finish() -> None:
    family.finish()
    if _reports and family.is_root and latest is not None:
        from ._reporting import make, write_all

        write_all(make(ledger, latest, latest.settings), _reports)

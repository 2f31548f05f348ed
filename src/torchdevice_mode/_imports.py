"""Waits for a module to be imported, without importing it.

A program may set variables such as OMP_NUM_THREADS before it imports torch, so torch must not be
imported for it; and a program that never does is not made to wait. torch itself imports its
compilers late, and what is replaced in them must wait for that.
"""

from __future__ import annotations

import sys

# Not that of `typing`, which takes longer to import than this file: see `_startup`.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import importlib.machinery
    import types
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

__all__ = ["when_imported"]


def when_imported(
    name: str,
    action: Callable[[], None],
    *,
    around: Callable[[], AbstractContextManager[object]] | None = None,
) -> Callable[[], None]:
    """Call once a module has been imported: at once, or at the end of the import to come.

    Args:
        name: The module.
        action: What to do; what it raises comes out of the import.
        around: Gives the context that the module's code is executed in; None for none.

    Returns:
        What takes the action back, if it has not been done.
    """
    if name in sys.modules:
        action()
        return lambda: None
    waiter = _Waiter(action, around)
    _waiting.setdefault(name, []).append(waiter)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)

    def take_back() -> None:
        # Another thread may be importing the module meanwhile.
        waiters = _waiting.get(name, [])
        if waiter in waiters:
            waiters.remove(waiter)
        if not waiters:
            _waiting.pop(name, None)
        _leave_if_idle()

    return take_back


class _Waiter:
    """One who waits for a module: what to do, and what the module is to be executed in."""

    def __init__(
        self,
        action: Callable[[], None],
        around: Callable[[], AbstractContextManager[object]] | None,
    ) -> None:
        self.action = action
        self.around = around


# By the name of the module, in the order in which they came.
_waiting: dict[str, list[_Waiter]] = {}


class _Finder:
    """Finds what is waited for as the others do, and has its loader call back."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec that the finders after this one have; None for what nobody waits for."""
        if fullname not in _waiting:
            return None
        finders = list(sys.meta_path)
        for finder in finders[finders.index(self) + 1 :] if self in finders else ():
            if hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    # Looking for a module is not yet importing it: each spec found calls back.
                    _extend(spec.loader, fullname)
                    return spec
        return None


_finder = _Finder()


def _extend(loader: object, name: str) -> None:
    execute = getattr(loader, "exec_module", None)
    if execute is None:
        return  # a namespace package, of which none is waited for

    def execute_and_act(module: types.ModuleType) -> None:
        # On the instance, so that the loader is what it was as soon as this is done.
        vars(loader).pop("exec_module", None)
        _execute_within([w.around for w in _waiting.get(name, ()) if w.around], execute, module)
        waiters = _waiting.pop(name, [])
        _leave_if_idle()
        for waiter in waiters:
            waiter.action()

    loader.exec_module = execute_and_act  # type: ignore[attr-defined]


def _execute_within(
    contexts: list[Callable[[], AbstractContextManager[object]]],
    execute: Callable[[types.ModuleType], None],
    module: types.ModuleType,
) -> None:
    if not contexts:
        execute(module)
        return
    with contexts[-1]():
        _execute_within(contexts[:-1], execute, module)


def _leave_if_idle() -> None:
    if not _waiting and _finder in sys.meta_path:
        sys.meta_path.remove(_finder)

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
    finder = _Finder(name, action, around)
    sys.meta_path.insert(0, finder)
    return finder.leave


class _Finder:
    """Finds the module as the others do, and has its loader call back."""

    def __init__(
        self,
        name: str,
        action: Callable[[], None],
        around: Callable[[], AbstractContextManager[object]] | None,
    ) -> None:
        self._name = name
        self._action = action
        self._around = around

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        # Only those that come after it, among them others of this class: they wait, too.
        finders = list(sys.meta_path)
        for finder in finders[finders.index(self) + 1 :] if self in finders else ():
            if hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    # Looking for a module is not yet importing it: each spec found calls back.
                    self._extend(spec.loader)
                    return spec
        return None

    def _extend(self, loader: object) -> None:
        execute = getattr(loader, "exec_module", None)
        if execute is None:
            return  # a namespace package, of which none is waited for

        def execute_and_act(module: types.ModuleType) -> None:
            # On the instance, so that the loader is what it was as soon as this is done.
            vars(loader).pop("exec_module", None)
            if self._around is None:
                execute(module)
            else:
                with self._around():
                    execute(module)
            if self in sys.meta_path:
                self.leave()
                self._action()

        loader.exec_module = execute_and_act  # type: ignore[attr-defined]

    def leave(self) -> None:
        """Wait no longer. Another thread may do so while this one imports the module."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

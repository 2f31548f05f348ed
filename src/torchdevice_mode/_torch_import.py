"""Waits for the program to import torch.

A program may set variables such as OMP_NUM_THREADS before it imports torch, so torch must not be
imported for it; and a program that never does is not made to wait for it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence

__all__ = ["when_torch_is_imported"]


def when_torch_is_imported(action: Callable[[], None]) -> None:
    """Call once torch has been imported: at once, or at the end of the import to come.

    Args:
        action: What to do; what it raises comes out of the program's `import torch`.
    """
    if "torch" in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Finder(action))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds torch as the others do, and has its loader call back."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "torch":
            return None
        for finder in list(sys.meta_path):
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    # Looking for torch is not yet importing it: each spec found calls back.
                    self._extend(spec.loader)
                    return spec
        return None

    def _extend(self, loader: object) -> None:
        execute = getattr(loader, "exec_module", None)
        if execute is None:
            return  # a namespace package: not torch

        def execute_and_act(module: types.ModuleType) -> None:
            # On the instance, so that the loader is what it was as soon as this is done.
            del loader.exec_module  # type: ignore[attr-defined]
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                self._action()

        loader.exec_module = execute_and_act  # type: ignore[attr-defined]

"""The compiler: Dynamo is to see plain torch when it is first imported.

torch imports Dynamo late: with the first optimizer, or the first `torch.compile`. At that moment
it makes tables of torch's functions, by identity, and must not find ours in their places.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence

from .. import _active
from .._modes import replace_innermost, restore_stack
from .._patches import Hook, Patch

__all__ = ["PATCHES"]

_DYNAMO = "torch._dynamo"


class _Finder(importlib.abc.MetaPathFinder):
    """Finds Dynamo as the others do, and has it executed under plain torch."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _DYNAMO:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            _execute_under_plain_torch(spec.loader)
        return spec


def _execute_under_plain_torch(loader: importlib.abc.Loader) -> None:
    execute = loader.exec_module

    def under_plain_torch(module: types.ModuleType) -> None:
        # On the instance, so that the loader is what it was as soon as this is done.
        del loader.exec_module
        before = replace_innermost(None)
        try:
            with _active.held(None):
                execute(module)
        finally:
            restore_stack(before)

    setattr(loader, "exec_module", under_plain_torch)


def _install_finder() -> Callable[[], None]:
    if _DYNAMO in sys.modules:
        return lambda: None
    finder = _Finder()
    sys.meta_path.insert(0, finder)

    def remove() -> None:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)

    return remove


PATCHES: tuple[Patch | Hook, ...] = (
    Hook(_install_finder, "Dynamo's tables of torch's functions are made when it is imported"),
)

"""The compiler: Dynamo is to see plain torch when it is first imported, and our mode afterwards.

torch imports Dynamo late: with the first optimizer, or the first `torch.compile`. At that moment
it makes tables of torch's functions, by identity, and must not find ours in their places.

Of the functions that take a device Dynamo hands only those to a mode that it knows can be
overridden: few in torch 2.11, and no `rand_like` or `normal` in 2.13. Those that a rule is for
are added while redirection is on.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

from .. import _active
from .._modes import replace_innermost, restore_stack
from .._patches import Hook, Patch
from .._rules import RULES

__all__ = ["PATCHES"]

_DYNAMO = "torch._dynamo"
_OVERRIDABLE = ("torch._dynamo.variables.torch", "get_overridable_functions")


class _Finder(importlib.abc.MetaPathFinder):
    """Finds Dynamo as the others do, and has it executed under plain torch.

    Args:
        afterwards: Called when it has been.
    """

    def __init__(self, afterwards: Callable[[], None]) -> None:
        self.afterwards = afterwards

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
            _execute_under_plain_torch(spec.loader, self.afterwards)
        return spec


def _execute_under_plain_torch(
    loader: importlib.abc.Loader, afterwards: Callable[[], None]
) -> None:
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
        afterwards()

    setattr(loader, "exec_module", under_plain_torch)


def _with_ruled(original: Callable[[], set[Any]]) -> Callable[[], set[Any]]:
    # Found out when it is asked for: that takes a while, and only compiling asks.
    @functools.cache
    def get_overridable_functions() -> set[Any]:
        ruled = {function for function in RULES if isinstance(function, types.BuiltinFunctionType)}
        return original() | ruled

    return get_overridable_functions


def _install() -> Callable[[], None]:
    removals: list[Callable[[], None]] = []
    is_over = False  # another thread may end the redirection while this one imports Dynamo

    def show_our_mode() -> None:
        module, name = sys.modules.get(_OVERRIDABLE[0]), _OVERRIDABLE[1]
        original = getattr(module, name, None)
        if module is not None and original is not None and not is_over:
            setattr(module, name, _with_ruled(original))
            removals.append(lambda: setattr(module, name, original))

    def remove() -> None:
        nonlocal is_over
        is_over = True
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)
        while removals:
            removals.pop()()

    finder = _Finder(show_our_mode)
    if _DYNAMO in sys.modules:
        show_our_mode()
    else:
        sys.meta_path.insert(0, finder)
    return remove


PATCHES: tuple[Patch | Hook, ...] = (
    Hook(_install, "Dynamo's tables of torch's functions are made when it is imported"),
)

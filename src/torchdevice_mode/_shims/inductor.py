"""Code that Inductor compiled: it allocates memory where no mode sees it.

torch imports Inductor with the first compilation, so what calls its code is replaced then.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence

from .._out_of_memory import reports_out_of_memory
from .._patches import Hook

__all__ = ["PATCHES"]

_MODULE = "torch._inductor.output_code"
_CLASS, _METHOD = "CompiledFxGraph", "__call__"


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the module as the others do, and says when it is there.

    Args:
        afterwards: Called when it has been imported.
    """

    def __init__(self, afterwards: Callable[[], None]) -> None:
        self.afterwards = afterwards

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            loader, execute = spec.loader, spec.loader.exec_module

            def execute_and_say(module: types.ModuleType) -> None:
                del loader.exec_module  # on the instance
                execute(module)
                self.afterwards()

            setattr(loader, "exec_module", execute_and_say)
        return spec


def _install() -> Callable[[], None]:
    removals: list[Callable[[], None]] = []
    is_over = False  # another thread may end the redirection while this one imports

    def replace() -> None:
        found = getattr(sys.modules.get(_MODULE), _CLASS, None)
        original = vars(found).get(_METHOD) if isinstance(found, type) else None
        if original is not None and not is_over:
            setattr(found, _METHOD, reports_out_of_memory(original))
            removals.append(lambda: setattr(found, _METHOD, original))

    def remove() -> None:
        nonlocal is_over
        is_over = True
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)
        while removals:
            removals.pop()()

    finder = _Finder(replace)
    if _MODULE in sys.modules:
        replace()
    else:
        sys.meta_path.insert(0, finder)
    return remove


PATCHES: tuple[Hook, ...] = (
    Hook(_install, "the calls of compiled code are no torch functions, so no mode sees them"),
)

"""TorchScript: its interpreter calls operators from C++, with devices that were baked in.

A call of a scripted function is not a torch function, so no function mode sees it. Where the
program's graph names an accelerator, the dispatch mode is entered around the call.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch

from .._active import current
from .._dispatch_mode import RedirectDispatchMode
from .._out_of_memory import reports_out_of_memory
from .._patches import Patch
from .._spec import parse

__all__ = ["PATCHES"]

# A graph does not change once it is compiled, and reading it costs more than most calls.
_names_accelerator: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def _has_device_baked_in(program: Any) -> bool:
    found = _names_accelerator.get(program)
    if found is None:
        # Nodes die with their graph, so it is held while they are read.
        graph = program.inlined_graph
        constants = graph.findAllNodes("prim::Constant", recurse=True)
        found = _names_accelerator[program] = any(
            node.output().type().kind() == "DeviceObjType"
            and node.hasAttribute("value")
            and parse(node.s("value")).is_accelerator
            for node in constants
        )
    return found


def _under_dispatch_mode(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    @reports_out_of_memory
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        context = current()
        if context is None or not _has_device_baked_in(self):
            return call(self, *args, **kwargs)
        with RedirectDispatchMode(context):
            return call(self, *args, **kwargs)

    return run


_REASON = "a call of a scripted program is no torch function, so no function mode sees it"

PATCHES: tuple[Patch, ...] = (
    Patch(lambda: torch._C.ScriptFunction, "__call__", _under_dispatch_mode, _REASON),
    Patch(lambda: torch._C.ScriptMethod, "__call__", _under_dispatch_mode, _REASON),
)

"""The compiler: Dynamo is to see plain torch when it is first imported, and our mode afterwards.

torch imports Dynamo late: with the first optimizer, or the first `torch.compile`. At that moment
it makes tables of torch's functions, by identity, and must not find ours in their places.

Of the functions that take a device Dynamo hands only those to a mode that it knows can be
overridden: few in torch 2.11, and no `rand_like` or `normal` in 2.13. Those that a rule is for
are added while redirection is on.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from typing import Any

from .._modes import plain_torch
from .._patches import Hook, Patch, late
from .._rules import RULES

__all__ = ["PATCHES"]

_DYNAMO = "torch._dynamo"
_OVERRIDABLE = ("torch._dynamo.variables.torch", "get_overridable_functions")


def _with_ruled(original: Callable[[], set[Any]]) -> Callable[[], set[Any]]:
    # Found out when it is asked for: that takes a while, and only compiling asks.
    @functools.cache
    def get_overridable_functions() -> set[Any]:
        ruled = {function for function in RULES if isinstance(function, types.BuiltinFunctionType)}
        return original() | ruled

    return get_overridable_functions


def _table_of_dynamo() -> Any:
    """The module that asks which functions can be overridden, if this torch has it."""
    module = sys.modules.get(_OVERRIDABLE[0])
    return module if hasattr(module, _OVERRIDABLE[1]) else None


PATCHES: tuple[Patch | Hook, ...] = (
    late(
        _DYNAMO,
        Patch(
            _table_of_dynamo,
            _OVERRIDABLE[1],
            _with_ruled,
            "Dynamo's tables of torch's functions are made when it is imported",
        ),
        around=plain_torch,
    ),
)

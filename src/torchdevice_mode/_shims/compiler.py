"""The compiler: Dynamo is to see plain torch when it is first imported, and our mode afterwards.

torch imports Dynamo late: with the first optimizer, or the first `torch.compile`. At that moment
it makes tables of torch's functions, by identity, and must not find ours in their places.

Of the functions that take a device Dynamo hands only those to a mode that it knows can be
overridden: few in torch 2.11, and no `rand_like` or `normal` in 2.13. Those that a rule is for
are added while redirection is on.

Dynamo looks at every Python frame that runs inside of what it compiles but outside of a graph.
Where plain torch has a C function, `Tensor.to` for one, there is a handler of ours, which would be
compiled, and anew for each shape. So frames of this package run as they are; called in a graph
they are traced.

What cannot be compiled because its tensors are on two devices is run as it is, so that strays are
adopted call by call.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._active import current
from .._log import warn_once
from .._mismatch import is_mismatch
from .._modes import plain_torch
from .._patches import Hook, Patch, late
from .._rules import RULES

__all__ = ["PATCHES"]

_DYNAMO = "torch._dynamo"
_RULES_OF_FILES = "torch._dynamo.trace_rules"
_HERE = Path(__file__).parents[1].as_posix() + "/"
_CONVERTS = "torch._dynamo.convert_frame"
_OVERRIDABLE = ("torch._dynamo.variables.torch", "get_overridable_functions")


def _with_ruled(original: Callable[[], set[Any]]) -> Callable[[], set[Any]]:
    # Found out when it is asked for: that takes a while, and only compiling asks.
    @functools.cache
    def get_overridable_functions() -> set[Any]:
        ruled = {function for function in RULES if isinstance(function, types.BuiltinFunctionType)}
        return original() | ruled

    return get_overridable_functions


def _skipping_ours(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def check_file(filename: str | None, is_inlined_call: bool = False) -> Any:
        if filename is not None and not is_inlined_call and _is_ours(filename):
            return sys.modules[_RULES_OF_FILES].SkipResult(True, "a frame of torchdevice")
        return original(filename, is_inlined_call)

    return check_file


@functools.cache
def _is_ours(filename: str) -> bool:
    return Path(filename).as_posix().startswith(_HERE)


def _eager_where_devices_are_mixed(convert: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(convert)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807 - it replaces one
        try:
            return convert(self, *args, **kwargs)
        except Exception as error:
            if current() is None or not is_mismatch(error):
                raise
        warn_once(
            "compile-mixed-devices",
            "A compiled function met tensors of the CPU and of the accelerator, which cannot be "
            "compiled, and runs as it is: move them to one device before it is called.",
            key=args[0].f_code,
        )
        # With what it calls, or torch's own functions would be compiled one by one.
        types_of_dynamo = sys.modules["torch._dynamo.types"]
        skip = types_of_dynamo.FrameAction.SKIP
        strategy = types_of_dynamo.FrameExecStrategy(skip, skip)
        return types_of_dynamo.ConvertFrameReturn(frame_exec_strategy=strategy)

    return __call__


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
    late(
        _DYNAMO,
        Patch(
            lambda: sys.modules.get(_RULES_OF_FILES),
            "check_file",
            _skipping_ours,
            "Dynamo compiles our frames where plain torch has C code, and has no list to add to",
        ),
    ),
    late(
        _CONVERTS,
        Patch(
            lambda: getattr(sys.modules.get(_CONVERTS), "ConvertFrame", None),
            "__call__",
            _eager_where_devices_are_mixed,
            "Dynamo propagates fake tensors past every mode, and refuses mixed devices",
        ),
    ),
)

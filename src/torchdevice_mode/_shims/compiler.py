"""The compiler: Dynamo is to see plain torch when it is first imported, and our mode afterwards.

torch imports Dynamo late: with the first optimizer, or the first `torch.compile`. At that moment,
and when it first compiles, it makes tables of torch's functions, by identity, and keeps them. It
must not find ours in their places: after redirection it would not know torch's own.

Of the functions that take a device Dynamo hands only those to a mode that it knows can be
overridden: few in torch 2.11, and no `rand_like` or `normal` in 2.13. Those that a rule is for
are added while redirection is on.

Dynamo looks at every Python frame that runs inside of what it compiles but outside of a graph.
Where plain torch has a C function, `Tensor.to` for one, there is a handler of ours, which would be
compiled, and anew for each shape. So frames of this package run as they are; what is called in a
graph is traced.

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
from .._patches import Patch, imported, original_of
from .._rules import RULES
from . import _tracing

__all__ = ["PATCHES"]

_DYNAMO = "torch._dynamo"
_LOOKED_THROUGH = "_torchdevice_looked_through"
_HERE = Path(__file__).parents[1].as_posix() + "/"


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
            return sys.modules[original.__module__].SkipResult(True, "a frame of torchdevice")
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


# --- tables by functions of torch -----------------------------------------------------------------


def _of_plain_torch(original: Any) -> Any:
    """A cached function that makes a table: with torch's own functions, whenever it is made."""
    is_static = isinstance(original, staticmethod)
    build: Any = original.__func__ if is_static else original

    @functools.wraps(build)
    def table() -> Any:
        if build.cache_info().currsize:
            return build()
        with plain_torch():
            return _put_back(build())

    if build.cache_info().currsize and not hasattr(build, _LOOKED_THROUGH):
        _put_back(build())  # made while Dynamo was imported
    setattr(build, _LOOKED_THROUGH, True)
    for name in ("cache_clear", "cache_info"):
        setattr(table, name, getattr(build, name))
    return staticmethod(table) if is_static else table


def _put_back(table: dict[Any, Any]) -> dict[Any, Any]:
    """The table, changed so that torch's functions are its keys, and none that replaces one."""
    for key in list(table):
        original = original_of(key)
        if original is not key:
            table[original] = table.pop(key)
    return table


# --- all changes ----------------------------------------------------------------------------------


_KEPT = "Dynamo keeps for good what it finds under the names of torch's functions"

# Module below Dynamo, class, attribute, what replaces it, and why.
_CHANGES: tuple[tuple[str, str, str, Callable[[Any], Any], str], ...] = (
    (
        "variables.torch",
        "",
        "get_overridable_functions",
        _with_ruled,
        "Dynamo hands a mode only what torch lists as overridable",
    ),
    (
        "trace_rules",
        "",
        "check_file",
        _skipping_ours,
        "Dynamo compiles our frames where plain torch has C functions, and has no list to add to",
    ),
    ("trace_rules", "", "get_torch_obj_rule_map", _of_plain_torch, _KEPT),
    ("variables.torch", "TorchInGraphFunctionVariable", "_get_handlers", _of_plain_torch, _KEPT),
    ("variables.torch", "", "constant_fold_functions", _put_back, _KEPT),
    ("variables.torch", "", "constant_fold_functions_need_guards", _put_back, _KEPT),
    (
        "variables.torch_function",
        "",
        "can_dispatch_torch_function",
        _tracing.not_for_the_mode,
        "Dynamo takes operators apart for any mode, and takes it off for the bodies of conditions",
    ),
    (
        "variables.tensor",
        "TensorVariable",
        "call_method",
        _tracing.without_the_mode_for_methods,
        "for any mode Dynamo traces methods that it cannot trace, such as unflatten",
    ),
    (
        "variables.torch",
        "TorchInGraphFunctionVariable",
        "torch_function_override_enabled",
        _tracing.without_the_mode_for_functions,
        "Dynamo traces each call through any mode, which takes twice the time",
    ),
    (
        "variables.user_defined",
        "UserDefinedClassVariable",
        "call_function",
        _tracing.deciding_devices,
        "Dynamo makes a constant of torch.device(...) that no mode sees",
    ),
    (
        "variables.tensor",
        "TensorVariable",
        "method_attr_is_cuda",
        _tracing.answering_is_cuda,
        "Dynamo reads the type of the device that a tensor has, and asks no mode",
    ),
)

_CONVERTS = f"{_DYNAMO}.convert_frame"

PATCHES: dict[str, tuple[Patch, ...]] = {
    _DYNAMO: tuple(
        Patch(imported(f"{_DYNAMO}.{module}", of_class, having=name), name, replace, reason)
        for module, of_class, name, replace, reason in _CHANGES
    ),
    _CONVERTS: (
        Patch(
            imported(_CONVERTS, "ConvertFrame", having="__call__"),
            "__call__",
            _eager_where_devices_are_mixed,
            "Dynamo propagates fake tensors past every mode, and refuses mixed devices",
        ),
    ),
}

"""float64 in what `torch.compile` traced: cast down in the graph, before it is compiled.

While Dynamo traces, tensors have no memory and no device refuses them: what is wrong shows when the
compiled code runs, where no mode sees it. So the graph that Dynamo hands to a compiler is made to
ask for float32 where it would make float64 on a target that lacks it. Where float64 is to stay on
the CPU, the function runs uncompiled.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map

from .._active import current
from .._context import Context
from .._dtypes import NARROWER
from .._log import user_frame
from .._patches import Patch, imported

__all__ = ["PATCHES"]

_MODULE = "torch._dynamo.output_graph"
_METHOD = "call_user_compiler"
# Methods whose dtype is in their names.
_NAMED = {"double": torch.float32, "cdouble": torch.complex64}


def _settled_first(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call_user_compiler(self: Any, gm: Any, *args: Any, **kwargs: Any) -> Any:
        context = current()
        wide = [] if context is None else _wide_nodes(context, gm.graph)
        if context is None or not wide:
            return original(self, gm, *args, **kwargs)
        if context.settings.float64 == "cpu":
            # Read by what runs such functions uncompiled.
            raise RuntimeError(
                "Expected all tensors to be on the same device, and float64 is to stay on the CPU"
            )
        if context.settings.float64 == "error":
            return _explained(original)(self, gm, *args, **kwargs)
        for node in wide:
            _cast_down(node)
        gm.recompile()
        from .._downcast import note_downcast

        note_downcast(context, "a compiled function", user_frame(sys._getframe(1)))
        return original(self, gm, *args, **kwargs)

    return call_user_compiler


def _explained(function: Callable[..., Any]) -> Callable[..., Any]:
    """Say what the setting has to do with it, where torch refuses float64 now or later."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            result = function(*args, **kwargs)
        except (TypeError, RuntimeError) as error:
            from .._downcast import IN_CPP, refused_dtype
            from .._float64 import explain_refusal

            if refused_dtype(str(error)) in IN_CPP:
                explain_refusal(error)
            raise
        return _explained(result) if callable(result) else result

    return call


def _wide_nodes(context: Context, graph: Any) -> list[Any]:
    """What makes float64 or complex128 on a target that lacks them."""
    return [node for node in graph.nodes if _makes_float64(context, node) is not None]


def _cast_down(node: Any) -> None:
    from .._writes import name_of

    wide = node.meta["example_value"].dtype
    node.args = tree_map(_narrower, node.args)
    node.kwargs = tree_map(_narrower, node.kwargs)
    name = node.target if isinstance(node.target, str) else name_of(node.target)
    if name in _NAMED:
        node.op, node.target = "call_method", "to"
        node.args, node.kwargs = (node.args[0], _NAMED[name]), {}
    elif node.op == "call_function" and not node.all_input_nodes and "dtype" not in node.kwargs:
        # A factory, whose dtype is the default one.
        node.kwargs = {**node.kwargs, "dtype": NARROWER[wide]}


def _makes_float64(context: Context, node: Any) -> torch.dtype | None:
    """The dtype of what a node makes, if the target lacks it."""
    made = node.meta.get("example_value")
    if node.op not in ("call_function", "call_method") or not isinstance(made, torch.Tensor):
        return None
    on_target = made.device.type == context.lacks_float64
    return made.dtype if on_target and made.dtype in NARROWER else None


def _narrower(leaf: Any) -> Any:
    return NARROWER.get(leaf, leaf) if isinstance(leaf, torch.dtype) else leaf


PATCHES: dict[str, tuple[Patch, ...]] = {
    _MODULE: (
        Patch(
            imported(_MODULE, "OutputGraph", having=_METHOD),
            _METHOD,
            _settled_first,
            "compiled code is called by no mode, and tracing meets no device that refuses",
        ),
    ),
}

"""`torch.jit.trace`: what is traced keeps its tracer when a call in it is made anew."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from .._active import current
from .._patches import Patch
from .._tracing import remembering_tracer

__all__ = ["PATCHES"]

_IN_TORCH = (
    "_create_function_from_trace",
    "_create_function_from_trace_with_dict",
    "_create_graph_by_tracing",
)
_IN_MODULES = ("_create_method_from_trace", "_create_method_from_trace_with_dict")


def _remembering(create: Callable[..., Any]) -> Callable[..., Any]:
    """torch takes the traced function among the first arguments: after a name, or a module."""

    @functools.wraps(create)
    def trace(*args: Any, **kwargs: Any) -> Any:
        if current() is None:
            return create(*args, **kwargs)
        plain = (str, torch._C.ScriptModule)
        at = next((i for i, given in enumerate(args) if not isinstance(given, plain)), None)
        if at is not None and callable(args[at]):
            args = (*args[:at], remembering_tracer(args[at]), *args[at + 1 :])
        return create(*args, **kwargs)

    return trace


_REASON = "where a call raises torch leaves its tracer aside, which no mode can take up again"

PATCHES: tuple[Patch, ...] = (
    *(
        Patch(lambda: torch._C, name, _remembering, _REASON)
        for name in _IN_TORCH
        if hasattr(torch._C, name)
    ),
    *(
        Patch(lambda: torch._C.ScriptModule, name, _remembering, _REASON)
        for name in _IN_MODULES
        if hasattr(torch._C.ScriptModule, name)
    ),
)

"""`torch.jit.trace`: what is traced keeps its tracer when a call in it is made anew."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from .._active import current
from .._tracing import remembering_tracer

__all__ = ["remembering"]


def remembering(create: Callable[..., Any]) -> Callable[..., Any]:
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

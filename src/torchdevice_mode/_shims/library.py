"""Custom operators: what a program registers for CUDA serves the device that stands for it.

`@torch.library.custom_op(..., device_types="cuda")` names a device type, not a device, in Python
that no mode sees.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch.library

from .._active import current

__all__ = ["autocast_for_the_target", "for_the_target"]


def for_the_target(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def register_kernel(self: Any, device_types: Any, fn: Any = None, /) -> Any:
        return original(self, _targets(self, device_types), fn)

    return register_kernel


def _targets(operator: Any, device_types: Any) -> Any:
    """The types to register for; a kernel that the program has for the target itself stays."""
    context = current()
    if context is None or device_types is None:
        return device_types
    named = [device_types] if isinstance(device_types, str) else list(device_types)
    chosen = []
    for kind in named:
        stand_in = context.stands_for.get(kind)
        if stand_in is None or stand_in.type == kind or stand_in.type in operator._backend_fns:
            chosen.append(kind)
        elif stand_in.type not in named:
            chosen.append(stand_in.type)
    return chosen


def autocast_for_the_target(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def register_autocast(self: Any, device_type: str, cast_inputs: Any) -> Any:
        context = current()
        stand_in = None if context is None else context.stands_for.get(device_type)
        if stand_in is not None and torch.amp.is_autocast_available(stand_in.type):
            # Before torch 2.13 only the CPU and CUDA can be named, so that nothing is cast.
            with contextlib.suppress(ValueError):
                return original(self, stand_in.type, cast_inputs)
        return original(self, device_type, cast_inputs)

    return register_autocast

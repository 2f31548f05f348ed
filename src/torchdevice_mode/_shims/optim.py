"""Optimizers: torch refuses `capturable=True` on devices that have no graphs to capture.

A program that names CUDA may ask for it. It only keeps the step count on the device, which any
device can do, so the target counts among those that torch allows.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

from .._active import current
from .._patches import Patch

__all__ = ["PATCHES"]

_NAME = "_get_capturable_supported_devices"


def _with_target(supported: Callable[..., list[str]]) -> Callable[..., list[str]]:
    @functools.wraps(supported)
    def answer(supports_xla: bool = True) -> list[str]:
        devices = supported(supports_xla)
        context = current()
        if context is None or context.target.type in devices:
            return devices
        return [*devices, context.target.type]

    return answer


PATCHES: tuple[Patch, ...] = tuple(
    Patch(
        lambda module=module: module,  # type: ignore[misc]
        _NAME,
        _with_target,
        "each optimizer's module has its own reference to the list, and reads it in `step`",
    )
    for name, module in list(sys.modules.items())
    if name.startswith("torch.optim.") and hasattr(module, _NAME)
)

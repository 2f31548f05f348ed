"""Optimizers: allowed to be capturable on the target, and working past the function mode.

torch refuses `capturable=True` on devices that have no graphs to capture. A program that names
CUDA may ask for it; it only keeps the step count on the device, which any device can do.

The arithmetic of a step, of clipping and of zeroing gradients is hundreds of torch's own calls on
tensors that are where they are: there is nothing to rewrite in them, and the mode's cost is saved.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from torch.compiler import is_compiling

from .._active import current
from .._modes import replace_innermost, restore_stack
from .._out_of_memory import is_out_of_memory, out_of_memory
from .._patches import Patch
from .cuda._surface import redirection

__all__ = ["PATCHES"]

_CAPTURABLE = "_get_capturable_supported_devices"


def _with_target(supported: Callable[..., list[str]]) -> Callable[..., list[str]]:
    @functools.wraps(supported)
    def answer(supports_xla: bool = True) -> list[str]:
        devices = supported(supports_xla)
        context = current()
        if context is None or context.target.type in devices:
            return devices
        return [*devices, context.target.type]

    return answer


def _past_the_mode(work: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(work)
    def work_past_the_mode(*args: Any, **kwargs: Any) -> Any:
        if is_compiling():
            return work(*args, **kwargs)
        context = current()
        if context is None:
            return work(*args, **kwargs)
        before = replace_innermost(None)
        try:
            return work(*args, **kwargs)
        except RuntimeError as error:
            if is_out_of_memory(context, error):
                raise out_of_memory(error) from error
            raise
        finally:
            restore_stack(before)

    return work_past_the_mode


def _checking(original: Callable[..., None]) -> Callable[..., None]:
    """torch's check that a captured optimizer is capturable, which asks for CUDA itself."""

    @functools.wraps(original)
    def check(self: torch.optim.Optimizer) -> None:
        if is_compiling() or redirection() is None:
            return original(self)
        if torch.cuda.is_current_stream_capturing() and not all(
            group["capturable"] for group in self.param_groups
        ):
            raise RuntimeError(
                "Attempting CUDA graph capture of step() for an instance of "
                f"{type(self).__name__} but param_groups' capturable is False."
            )
        return None

    return check


# Not as attributes of torch.optim, which it deletes.
_MODULES = [module for name, module in sys.modules.items() if name.startswith("torch.optim.")]


def _arithmetic(module: types.ModuleType) -> str:
    """The function that does an optimizer's arithmetic is named as its module is."""
    return module.__name__.rpartition(".")[2].lstrip("_")


_NOTHING_TO_REWRITE = "a mode cannot take itself off for what torch does on tensors of its own"

PATCHES: tuple[Patch, ...] = (
    *(
        Patch(
            lambda module=module: module,  # type: ignore[misc]
            _CAPTURABLE,
            _with_target,
            "each optimizer's module has its own reference to the list, and reads it in `step`",
        )
        for module in _MODULES
        if hasattr(module, _CAPTURABLE)
    ),
    *(
        Patch(
            lambda module=module: module,  # type: ignore[misc]
            _arithmetic(module),
            _past_the_mode,
            _NOTHING_TO_REWRITE,
        )
        for module in _MODULES
        if callable(getattr(module, _arithmetic(module), None))
    ),
    *(
        Patch(
            lambda: torch.optim.Optimizer,
            name,
            _checking,
            "asks torch's C++ whether a CUDA stream is being captured",
        )
        for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check")
        if hasattr(torch.optim.Optimizer, name)
    ),
    Patch(lambda: torch.optim.Optimizer, "zero_grad", _past_the_mode, _NOTHING_TO_REWRITE),
    Patch(lambda: torch.nn.utils, "clip_grad_norm_", _past_the_mode, _NOTHING_TO_REWRITE),
    Patch(lambda: torch.nn.utils, "clip_grad_value_", _past_the_mode, _NOTHING_TO_REWRITE),
)

"""A row for memory that processes share: CUDA's does, no other accelerator's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .._context import Context
from .._log import warn_once
from .._registry import Rule, caller

__all__ = ["ROWS"]


def share_on_cpu(
    context: Context, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Bring the tensor to the CPU, and share it there: updates reach all processes.

    It is adopted where it meets tensors of the accelerator, as a weight does in every call.
    """
    tensor = args[0]
    if tensor.device.type in ("cpu", "cuda", "meta"):
        return func(*args, **kwargs)
    device = str(tensor.device)
    warn_once(
        "shared-on-cpu",
        f"Processes cannot share memory of {device}, so what share_memory_() was called on is "
        f"kept on the CPU, and copied to {device} at each use.",
    )
    context.record("adoption", f"shared memory of {device}", "cpu", "shared on the CPU", caller(0))
    with torch.no_grad():
        tensor.data = tensor.detach().cpu()
    return func(*args, **kwargs)


ROWS: tuple[Rule, ...] = (
    Rule(
        ("torch.Tensor.share_memory_",),
        share_on_cpu,
        "torch shares memory of the CPU and of CUDA only, and does nothing for other devices",
    ),
)

"""Rows for calls that hand data to the host: `.numpy()`, `np.asarray(t)`.

On the CPU, where the program was told its tensors are, these work; on an accelerator torch
refuses them. They are made to work from any device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._context import Context
from .._registry import Rule

__all__ = ["ROWS"]


def to_host_first(
    context: Context, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Copy the tensor to the CPU, then make the call there."""
    tensor = args[0]
    if tensor.device.type in ("cpu", "meta"):
        return func(*args, **kwargs)
    return func(tensor.cpu(), *args[1:], **kwargs)


ROWS: tuple[Rule, ...] = (
    Rule(
        ("torch.Tensor.numpy", "torch.Tensor.__array__"),
        to_host_first,
        "NumPy reads CPU memory only",
    ),
)

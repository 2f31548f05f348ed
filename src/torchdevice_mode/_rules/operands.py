"""Rows for calls that torch begins before it has looked at all operands.

Most calls are refused before they change anything, and are then made anew with their operands on
one device. These are not: a list is worked off pair by pair, and attention draws its dropout
before it comes to its last layer. So their operands are looked at first, and refused in torch's
words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.compiler import is_compiling

from .._context import Context
from .._registry import Rule

__all__ = ["ROWS"]


def refuse_mixed_pairs(
    context: Context, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """`torch._foreach_add_(xs, ys)`: the tensors in one place of all lists are on one device."""
    if context.target.type != "cpu" and not is_compiling():
        values = (*args, *kwargs.values())
        lists = [value for value in values if isinstance(value, (list, tuple))]
        for operands in zip(*lists, strict=False):
            _refuse_mixed(operands)
    return func(*args, **kwargs)


def refuse_mixed(
    context: Context, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """All tensors are on one device."""
    if context.target.type != "cpu" and not is_compiling():
        _refuse_mixed((*args, *kwargs.values()))
    return func(*args, **kwargs)


def _refuse_mixed(operands: Iterable[Any]) -> None:
    # A CPU tensor without dimensions is a number, which torch takes to any device.
    devices = {
        operand.device
        for operand in operands
        if isinstance(operand, torch.Tensor) and (operand.dim() or operand.device.type != "cpu")
    }
    if len(devices) > 1:
        names = " and ".join(sorted(map(str, devices), reverse=True))
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{names}!"
        )


def _in_place_over_lists() -> tuple[str, ...]:
    # Copying is between any devices.
    names = (name for name in vars(torch) if name.startswith("_foreach_") and name.endswith("_"))
    return tuple(f"torch.{name}" for name in names if name != "_foreach_copy_")


ROWS: tuple[Rule, ...] = (
    Rule(_in_place_over_lists, refuse_mixed_pairs, "some pairs would be done twice"),
    Rule(
        ("torch.nn.functional.multi_head_attention_forward",),
        refuse_mixed,
        "dropout would be drawn twice",
    ),
)

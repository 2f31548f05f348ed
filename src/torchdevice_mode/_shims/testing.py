"""`torch.testing`: a CPU tensor is not on another device than the target where the CPU means it.

A test compares what it computed with what NumPy expects. On the CPU, which it was written for, both
are there; redirected, torch would find that their devices differ.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.testing._comparison

from .._active import current
from .._context import Context

__all__ = ["lenient"]


def lenient(compare: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(compare)
    def compare_attributes(self: Any, actual: torch.Tensor, expected: torch.Tensor) -> None:
        context = current()
        if context is None or not self.check_device or not _same(context, actual, expected):
            compare(self, actual, expected)
            return
        self.check_device = False
        try:
            compare(self, actual, expected)
        finally:
            self.check_device = True

    return compare_attributes


def _same(context: Context, actual: torch.Tensor, expected: torch.Tensor) -> bool:
    kinds = {actual.device.type, expected.device.type}
    return kinds == {"cpu", context.target.type} and context.resolve("cpu").redirected

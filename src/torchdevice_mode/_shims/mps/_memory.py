"""Memory: MPS's four figures from the target's, and its limit where the target has one."""

from __future__ import annotations

import torch

from ..._log import warn_once
from ..cuda._figures import Figures, figures
from ._surface import Trace, mapped, target

__all__: list[str] = []

_BREAK = Trace.BREAK


def _figures() -> Figures:
    return figures(target().type)


@mapped("current_allocated_memory", "the target's own figure", trace=_BREAK)
def current_allocated_memory() -> int:
    return _figures().allocated()


@mapped("driver_allocated_memory", "what the target holds from the system", trace=_BREAK)
def driver_allocated_memory() -> int:
    held = _figures()
    return max(held.allocated(), held.reserved())


@mapped("recommended_max_memory", "the memory that the target has", trace=_BREAK)
def recommended_max_memory() -> int:
    return _figures().total()


@mapped("empty_cache", "gives back what the target holds and does not use", trace=_BREAK)
def empty_cache() -> None:
    _figures().release()


@mapped(
    "set_per_process_memory_fraction",
    "set on the target where it has a limit; beyond 1, and 0, are no limit",
    trace=_BREAK,
)
def set_per_process_memory_fraction(fraction: float) -> None:
    if not isinstance(fraction, float):
        raise TypeError("Invalid type for fraction argument, must be `float`")
    if fraction < 0 or fraction > 2:
        raise ValueError(f"Invalid fraction value: {fraction}. Allowed range: 0~2")
    share = fraction if 0 < fraction < 1 else 1.0
    device = target()
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(share, device)
    elif share < 1:
        warn_once(
            "memory-fraction",
            f"set_per_process_memory_fraction({fraction}) limits nothing, because torch does not "
            f"limit the memory of {device.type}: limit the process from outside.",
        )

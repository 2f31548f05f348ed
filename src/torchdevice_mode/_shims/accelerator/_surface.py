"""The table of torch.accelerator."""

from __future__ import annotations

import torch
import torch.accelerator

from ..._active import current
from ..._context import Context
from .._surface import Surface

__all__ = ["ACCELERATOR"]

_ROWS = f"{__package__}._rows"


class _AcceleratorSurface(Surface):
    """The table of torch.accelerator, which is about whatever the target is."""

    def redirection(self) -> Context | None:
        return current()

    def target(self) -> torch.device:
        return self.context().target


ACCELERATOR = _AcceleratorSurface(
    "torch.accelerator",
    "accelerator",
    later={"": _ROWS, "memory": _ROWS, "graphs": _ROWS},
)

"""Dtypes that some accelerators lack, and what their values are kept in there."""

from __future__ import annotations

import torch

__all__ = ["NARROWER"]

NARROWER: dict[torch.dtype, torch.dtype] = {
    torch.float64: torch.float32,
    torch.complex128: torch.complex64,
}

"""Dtypes that some accelerators lack, and what their values are kept in there."""

from __future__ import annotations

import torch

__all__ = ["HELD_ONLY", "NARROWER", "refuse_held"]

NARROWER: dict[torch.dtype, torch.dtype] = {
    torch.float64: torch.float32,
    torch.complex128: torch.complex64,
}

HELD_ONLY = torch.complex128
"""Metal refuses float64 when a tensor is made; this it holds, and no kernel computes with it."""


def refuse_held(tensor: torch.Tensor, lacking: str) -> None:
    """Refuse a tensor that the target made and cannot compute with, in the words of its kernels.

    Args:
        tensor: What was made, of dtype `HELD_ONLY`.
        lacking: The device type of a target that lacks the dtype.

    Raises:
        TypeError: If the tensor is there.
    """
    if tensor.device.type == lacking:
        raise TypeError(
            "Trying to convert ComplexDouble to the MPS backend but it does not have support for "
            "that dtype."
        )

"""Dtypes that some accelerators lack, what their values are kept in there, and their sizes."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["HELD_ONLY", "NARROWER", "bytes_of", "narrowed", "refuse_held"]

NARROWER: dict[torch.dtype, torch.dtype] = {
    torch.float64: torch.float32,
    torch.complex128: torch.complex64,
}

HELD_ONLY = torch.complex128
"""Metal refuses float64 when a tensor is made; this it holds, and no kernel computes with it."""


def narrowed(value: Any, device_type: str) -> Any:
    """A tensor, or a dtype, in the narrower dtype that a device has; gradients flow back.

    Args:
        value: Any argument of a call.
        device_type: The type of the device.

    Returns:
        The value itself where it is of no such dtype.
    """
    if isinstance(value, torch.dtype):
        return NARROWER.get(value, value)
    if not isinstance(value, torch.Tensor) or value.dtype not in NARROWER:
        return value
    narrower = NARROWER[value.dtype]
    if value.device.type != device_type:
        return value.to(narrower)
    # Metal holds complex128, and converts it on the CPU only.
    return value.to("cpu").to(narrower).to(value.device)


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


def bytes_of(tensor: torch.Tensor) -> int:
    """What copying a tensor moves; of a sparse one, its values and its indices."""
    if torch._C._get_tracing_state() is not None:
        return 0  # `torch.jit.trace` would record the question, and give a tensor for an answer
    parts = [tensor]
    if tensor.layout is not torch.strided:
        parts = [getattr(tensor, name)() for name in _PARTS.get(tensor.layout, ())]
    return sum(part.numel() * part.element_size() for part in parts)


_BY_ROW, _BY_COLUMN = ("crow_indices", "col_indices"), ("ccol_indices", "row_indices")
_PARTS = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: (*_BY_ROW, "values"),
    torch.sparse_bsr: (*_BY_ROW, "values"),
    torch.sparse_csc: (*_BY_COLUMN, "values"),
    torch.sparse_bsc: (*_BY_COLUMN, "values"),
}

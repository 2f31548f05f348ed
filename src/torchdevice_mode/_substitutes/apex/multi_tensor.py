"""`apex.multi_tensor_apply`: says that there are no kernels for many tensors at once."""

from __future__ import annotations

from typing import Any

from .._missing import unsupported

__all__ = ["MultiTensorApply", "multi_tensor_applier"]


class MultiTensorApply:
    """Applies a kernel of Apex to many tensors; there are none, and `available` says so.

    Args:
        chunk_size: No effect.
    """

    available = False

    def __init__(self, chunk_size: int) -> None:
        self.chunk_size = chunk_size

    def __call__(self, *given: Any) -> Any:
        """Raise: programs ask `available` first."""
        raise unsupported("apex.multi_tensor_apply.multi_tensor_applier(...)", "use torch._foreach")


multi_tensor_applier = MultiTensorApply(2048 * 32)

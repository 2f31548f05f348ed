"""Calls in which torch itself mixes a plain tensor with DTensors.

CUDA's attention needs no mask for `is_causal=True`; what torch computes elsewhere makes one, a
plain tensor. Every rank makes the same, so it may count as replicated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

__all__ = ["is_mixed", "replicating"]

_Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def is_mixed(text: str) -> bool:
    """Whether an error's text says that plain tensors have met DTensors."""
    return "got mixed torch.Tensor and DTensor" in text


def replicating(call: _Call) -> _Call | None:
    """The call with plain tensors counted as replicated.

    Args:
        call: Function, positional and keyword arguments.

    Returns:
        The call to make; None where the program has mixed them, which is its error.
    """
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.experimental import implicit_replication

    func, args, kwargs = call
    leaves = pytree.tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if not tensors or not all(isinstance(tensor, DTensor) for tensor in tensors):
        return None
    dispatcher: Any = DTensor._op_dispatcher
    if dispatcher._allow_implicit_replication:
        return None  # tried already

    def replicated(*args: Any, **kwargs: Any) -> Any:
        with implicit_replication():
            return func(*args, **kwargs)

    return replicated, args, kwargs

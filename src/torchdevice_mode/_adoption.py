"""Stray operands, brought to one device for the one call that they met in.

What a call writes into is never exchanged for a copy: either the call is made where that tensor is,
or what was written into a copy is written into the program's own tensor, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ._caller import asked_by_torch
from ._context import Context
from ._downcast import note_downcast
from ._dtypes import NARROWER, bytes_of, narrowed
from ._on_cpu import Call, then_copied_back
from ._strays import note_strays
from ._writes import name_of, writes

__all__ = ["adopt", "hand_over"]

_CPU = torch.device("cpu")
# Their arguments name tensors, leaves of the graph, that copies cannot stand for. What else they
# are given is put right where the engine is called.
_NOT_ADOPTED = frozenset({"backward", "grad"})
# Sizes of the batches in a packed sequence, lengths, places to split at: torch takes these on the
# CPU, wherever the other arguments are.
_ON_CPU_SECOND = frozenset(
    {
        *("lstm", "gru", "rnn_tanh", "rnn_relu", "tensor_split"),
        *("_pack_padded_sequence", "_pad_packed_sequence"),
    }
)
_ON_CPU_BY_NAME = ("lengths", "batch_sizes", "tensor_indices_or_sections", "indices_or_sections")


def adopt(context: Context, call: Call, frame: Any) -> Call | None:
    """Bring the operands of a call to one device.

    They go to the accelerator, except where the result is a CPU tensor of the program's: that very
    object must change, so the call is made on the CPU. So is a call with a float64 tensor that
    is to stay there. Random numbers are drawn where their generator is, and copied back.

    Args:
        context: The redirection.
        call: Function, positional and keyword arguments, which torch refused.
        frame: The frame that called torch.

    Returns:
        The call to make in its place; None where no tensor is a stray.
    """
    func, args, kwargs = call
    leaves, spec = pytree.tree_flatten((args, kwargs))
    strays = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and _is_on_cpu(leaf)]
    accelerators = [
        leaf.device
        for leaf in leaves
        if isinstance(leaf, (torch.Tensor, torch._C.Generator))
        and leaf.device.type not in ("cpu", "meta")
    ]
    if not accelerators or not strays or name_of(func) in _NOT_ADOPTED:
        return None
    drawn = any(isinstance(leaf, torch._C.Generator) for leaf in leaves)
    written = writes(func, args, kwargs)
    into = written.into
    wide = accelerators[0].type == "mps" and any(t.dtype in NARROWER for t in strays)
    destination = accelerators[0]
    if (into and all(_is_on_cpu(t) for t in into) and not drawn) or (
        wide and context.settings.float64 == "cpu" and not drawn
    ):
        destination = _CPU
    elif wide and not into:
        if context.settings.float64 == "error":
            return None
        if not asked_by_torch(frame, absent=True):
            note_downcast(context, name_of(func), frame)

    stay = {id(tensor) for tensor in _on_cpu_only(func, args, kwargs)}
    began = time.perf_counter()
    # What was cast down meets float64 that is written into: some operators want one dtype.
    wider = next((t.dtype for t in into if t.dtype in NARROWER), None)
    moved: dict[int, torch.Tensor] = {
        id(leaf): _to_device(leaf, destination, wider)
        for leaf in leaves
        if isinstance(leaf, torch.Tensor) and leaf.device != destination and id(leaf) not in stay
    }
    if not moved:
        return None
    seconds = time.perf_counter() - began
    copied = sum(bytes_of(copy) for copy in moved.values())
    note_strays(context, name_of(func), strays, destination, frame, moved=copied, seconds=seconds)
    new_leaves = [moved.get(id(leaf), leaf) for leaf in leaves]
    new_args, new_kwargs = pytree.tree_unflatten(new_leaves, spec)
    return then_copied_back(func, written, moved), new_args, new_kwargs


def _is_on_cpu(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu"


def _on_cpu_only(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[torch.Tensor]:
    """Arguments that torch takes on the CPU only, wherever the others are."""
    if name_of(func) not in _ON_CPU_SECOND:
        return []
    values = (*args[1:2], *(kwargs.get(name) for name in _ON_CPU_BY_NAME))
    return [value for value in values if isinstance(value, torch.Tensor)]


def hand_over(context: Context, call: Call, frame: Any) -> Call | None:
    """Bring what torch takes on the CPU only there: lengths of sequences, places to split at.

    Programs make them without a device, and would have found them on the CPU.

    Args:
        context: The redirection.
        call: Function, positional and keyword arguments, which torch refused.
        frame: The frame that called torch.

    Returns:
        The call to make in its place; None where all of it is on the CPU.
    """
    func, args, kwargs = call
    wanted = {id(t) for t in _on_cpu_only(func, args, kwargs) if not _is_on_cpu(t)}
    if not wanted:
        return None
    new_args, new_kwargs = pytree.tree_map_only(
        torch.Tensor, lambda leaf: leaf.cpu() if id(leaf) in wanted else leaf, (args, kwargs)
    )
    asked = f"an accelerator tensor in {name_of(func)}"
    context.record("adoption", asked, "cpu", "torch takes it on the CPU only", frame)
    return func, new_args, new_kwargs


def _to_device(
    tensor: torch.Tensor, device: torch.device, wider: torch.dtype | None
) -> torch.Tensor:
    """Move a tensor, narrowed where the device lacks its dtype; gradients flow back."""
    if device.type == "cpu" and wider is not None and tensor.dtype is NARROWER[wider]:
        return tensor.to(device).to(wider)
    narrow: torch.Tensor = narrowed(tensor, device.type) if device.type == "mps" else tensor
    return narrow.to(device)

"""Stray operands, brought to one device for the one call that they met in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ._caller import asked_by_torch
from ._context import Context
from ._dtypes import NARROWER
from ._float64 import note_downcast
from ._on_cpu import Call, name_of, written

__all__ = ["adopt", "hand_over"]


def adopt(context: Context, call: Call, frame: Any) -> Call | None:
    """Bring the operands of a call to one device.

    They go to the accelerator, except where the call writes into a CPU tensor: that very
    object must change, so the call is made on the CPU. So is a call with a float64 tensor that
    is to stay there. Random numbers are drawn where their generator is, and copied back.
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
    if not accelerators or not strays:
        return None
    drawn = any(isinstance(leaf, torch._C.Generator) for leaf in leaves)
    into = written(func, args, kwargs)
    wide = accelerators[0].type == "mps" and any(t.dtype in NARROWER for t in strays)
    destination = accelerators[0]
    if (into and all(_is_on_cpu(t) for t in into) and not drawn) or (
        wide and context.settings.float64 == "cpu" and not drawn
    ):
        destination = torch.device("cpu")
    elif wide and not into:
        if context.settings.float64 == "error":
            return None
        if not asked_by_torch(frame, absent=True):
            note_downcast(context, name_of(func), frame)

    moved: dict[int, torch.Tensor] = {
        id(leaf): _to_device(leaf, destination)
        for leaf in leaves
        if isinstance(leaf, torch.Tensor) and leaf.device != destination
    }
    if not moved:
        return None
    asked = f"a CPU tensor in {name_of(func)}"
    context.record("adoption", asked, destination, "it met an accelerator tensor", frame)
    new_leaves = [moved.get(id(leaf), leaf) for leaf in leaves]
    new_args, new_kwargs = pytree.tree_unflatten(new_leaves, spec)
    copied_back = [(t, moved[id(t)]) for t in into if id(t) in moved]
    return _then_copied_back(func, copied_back) if copied_back else func, new_args, new_kwargs


def _is_on_cpu(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu"


def _then_copied_back(
    func: Callable[..., Any], pairs: list[tuple[torch.Tensor, torch.Tensor]]
) -> Callable[..., Any]:
    """A call that writes into moved tensors, and then into those that the program holds."""

    @functools.wraps(func)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = func(*args, **kwargs)
        with torch.no_grad():
            for held, moved in pairs:
                held.copy_(moved)
        originals = {id(moved): held for held, moved in pairs}
        return pytree.tree_map(lambda leaf: originals.get(id(leaf), leaf), result)

    return call


def hand_over(context: Context, call: Call, frame: Any) -> Call | None:
    """Bring what torch takes on the CPU only there: lengths of sequences, places to split at.

    Programs make them without a device, and would have found them on the CPU.
    """
    func, args, kwargs = call
    if all(
        _is_on_cpu(leaf)
        for leaf in pytree.tree_leaves((args[1:], kwargs))
        if isinstance(leaf, torch.Tensor)
    ):
        return None
    new_rest, new_kwargs = pytree.tree_map_only(torch.Tensor, torch.Tensor.cpu, (args[1:], kwargs))
    asked = f"an accelerator tensor in {name_of(func)}"
    context.record("adoption", asked, "cpu", "torch takes it on the CPU only", frame)
    return func, (*args[:1], *new_rest), new_kwargs


def _to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move a tensor, narrowed where the device lacks its dtype; gradients flow back."""
    if device.type == "mps" and tensor.dtype in NARROWER:
        tensor = tensor.to(NARROWER[tensor.dtype])
    return tensor.to(device)

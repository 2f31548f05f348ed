"""Checkpoints: storages tagged `cuda:0` or `mps` load onto the target, through torch's own hook.

`torch.serialization.register_package` is that hook; it has no counterpart to take a package
back, so the entry is removed from torch's list by identity. It serves `torch.load` with and
without `map_location`, `weights_only` or not, and `pickle.loads`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch._utils
import torch.serialization
import torch.storage

from .._active import current
from .._context import Context
from .._out_of_memory import reports_out_of_memory
from .._patches import Hook, Patch
from .._spec import parse

__all__ = ["PATCHES"]

# Before torch's own handlers, of which CUDA's, at 20, is the first that would refuse.
_PRIORITY = 5


def _no_tag(storage: Any) -> None:
    """Storages keep the tag that torch gives them."""


def _load_onto_target(storage: Any, location: str) -> Any:
    context = current()
    if context is None or not parse(location).is_accelerator:
        return None
    device = context.device_for(location, sys._getframe(1))
    if device is None:
        return None
    return storage if device.type == storage.device.type else storage.to(device=device)


def _move_anywhere(move: Callable[..., Any]) -> Callable[..., Any]:
    """`storage.cuda()` and `storage.to(device=...)` where the target has no device context."""

    @functools.wraps(move)
    @reports_out_of_memory
    def to(self: Any, device: torch.device, non_blocking: bool = False) -> Any:
        context = current()
        module = getattr(torch, device.type, None)
        if context is None or device.type != context.target.type or hasattr(module, "device"):
            return move(self, device, non_blocking)
        if self.device.type == device.type:
            return self
        with torch._C.DisableTorchFunction():
            return (
                torch.empty(self.nbytes(), dtype=torch.uint8, device=device)
                .untyped_storage()
                .copy_(self)
            )

    return to


def _register() -> Callable[[], None]:
    registry = torch.serialization._package_registry
    before = list(registry)
    torch.serialization.register_package(_PRIORITY, _no_tag, _load_onto_target)
    added = [entry for entry in registry if not any(entry is old for old in before)]

    def remove() -> None:
        for entry in added:
            position = next((i for i, other in enumerate(registry) if other is entry), None)
            if position is not None:
                del registry[position]

    return remove


def _rebuild_what_the_target_can_hold(rebuild: Callable[..., Any]) -> Callable[..., Any]:
    """A float64 tensor whose storage went to a target without float64 is rebuilt narrower."""

    def rebuild_tensor(storage: Any, storage_offset: Any, size: Any, stride: Any) -> Any:
        context = current()
        if context is None or not _must_narrow(context, storage):
            return rebuild(storage, storage_offset, size, stride)
        narrower = torch.float32 if storage.dtype == torch.float64 else torch.complex64
        on_cpu = rebuild(storage.cpu(), storage_offset, size, stride)
        return on_cpu.to(narrower).to(context.target)

    return rebuild_tensor


def _place(storage: Any) -> torch.device:
    # A typed storage warns that it is deprecated when it is asked for its device.
    return getattr(storage, "_untyped_storage", storage).device


def _must_narrow(context: Context, storage: Any) -> bool:
    return (
        context.target_lacks_float64
        and context.settings.float64 == "downcast"
        and _place(storage).type == context.target.type
        and storage.dtype in (torch.float64, torch.complex128)
    )


PATCHES: tuple[Patch | Hook, ...] = (
    Hook(_register, "torch's extension point for storages that name another device"),
    Patch(
        lambda: torch.storage,
        "_to",
        _move_anywhere,
        "it enters `torch.<type>.device`, which `torch.mps` does not have",
    ),
    Patch(
        lambda: torch._utils,
        "_rebuild_tensor",
        _rebuild_what_the_target_can_hold,
        "a storage has no dtype yet when it is placed, and a float64 tensor cannot lie on MPS",
    ),
)

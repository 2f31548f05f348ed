"""Loading checkpoints: storages tagged `cuda:0` or `mps` come to the target, by torch's own hook.

`torch.serialization.register_package` is that hook; it has no counterpart to take a package
back, so the entry is removed from torch's list by identity. It serves `torch.load` with and
without `map_location`, `weights_only` or not, and `pickle.loads`. What is written is the business
of `saving.py`; tensors that the target cannot hold are that of `unholdable.py`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.serialization
import torch.storage

from .._active import current
from .._context import Context
from .._out_of_memory import reports_out_of_memory
from .._patches import Hook, Patch, imported, late
from .._spec import TOGGLE, parse
from .saving import original_place, tag

__all__ = ["PATCHES"]

# Before torch's own handlers, of which the CPU's, at 10, is the first.
_PRIORITY = 5
_PACKAGES = "torch.package.package_importer"


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
    torch.serialization.register_package(_PRIORITY, tag, _load_onto_target)
    added = [entry for entry in registry if not any(entry is old for old in before)]

    def remove() -> None:
        for entry in added:
            position = next((i for i, other in enumerate(registry) if other is entry), None)
            if position is not None:
                del registry[position]

    return remove


# --- where a program asks its tensors to be -----------------------------------------------------


def _restoring(original: Callable[..., Any]) -> Callable[..., Any]:
    """`map_location` as the policy reads it, and storages from where they were when saved."""

    @functools.wraps(original)
    def _get_restore_location(map_location: Any) -> Any:
        context = current()
        if context is None:
            return original(map_location)
        place_of = original_place()
        restore = original(_without_toggles(context, map_location))

        def restore_location(storage: Any, location: str) -> Any:
            return restore(storage, place_of(location))

        return restore_location

    return _get_restore_location


def _without_toggles(context: Context, map_location: Any) -> Any:
    """`"cpu:-1"`, which torch cannot read, is the CPU; it turns the override once a load."""
    if isinstance(map_location, str):
        return _cpu_itself(context, map_location)
    if isinstance(map_location, dict):
        read = {place: _cpu_itself(context, place) for place in {*map_location.values()}}
        return {saved: read[place] for saved, place in map_location.items()}
    if isinstance(map_location, torch.device) and map_location.type == "cpu":
        return "cpu"  # `torch.device("cpu:-1")` has an index, with which torch does not know it
    return map_location


def _cpu_itself(context: Context, place: Any) -> Any:
    if isinstance(place, str) and parse(place) == TOGGLE:
        context.resolve(place)
        return "cpu"
    return place


PATCHES: tuple[Patch | Hook, ...] = (
    Hook(_register, "torch's extension point for storages that name another device"),
    Patch(
        lambda: torch.storage,
        "_to",
        _move_anywhere,
        "it enters `torch.<type>.device`, which `torch.mps` does not have",
    ),
    Patch(
        lambda: torch.serialization,
        "_get_restore_location",
        _restoring,
        "the hook is not asked for the CPU, nor told which storage of the file it is given",
    ),
    late(
        _PACKAGES,
        Patch(
            imported(_PACKAGES),
            "_get_restore_location",
            _restoring,
            "the function of torch.serialization, imported by name",
        ),
    ),
)

"""`torch.export`: devices of exported programs in files, and the pass that moves a program.

Loading needs nothing: torch makes each device of a file with `torch.device`, which a rule answers.
What is saved names the CPU where it was on the target, as checkpoints do (`saving.py`): plain
torch loads and runs it anywhere, and moves it with `move_to_device_pass`. Beside it the file keeps
what the program thought, under a key that torch does not read ("for forward compatibility").
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from .._active import current
from .._patches import Patch, imported
from .saving import place_of_device

__all__ = ["PATCHES"]

_SERIALIZER = "torch._export.serde.serialize"
_PASSES = "torch.export.passes"
_NOTE = "torchdevice"


def _on_cpu_elsewhere(device_class: Any) -> Any:
    """The class of devices in files, but for those of the target."""
    import dataclasses

    noted = dataclasses.make_dataclass("Device", [(_NOTE, str | None, None)], bases=(device_class,))

    @functools.wraps(device_class, updated=())
    def make(type: str, index: int | None = None) -> Any:
        place = place_of_device(type, index)
        if place is None:
            return device_class(type=type, index=index)
        return noted(type="cpu", index=None, **{_NOTE: place})

    return make


def _where_it_was(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _dict_to_dataclass(cls: Any, data: Any) -> Any:
        if type(data) is dict and isinstance(data.get(_NOTE), str) and current() is not None:
            kind, _, index = data[_NOTE].partition(":")
            data = {"type": kind, "index": int(index) if index.isdigit() else None}
        return original(cls, data)

    return _dict_to_dataclass


def _to_the_target(original: Callable[..., Any]) -> Callable[..., Any]:
    """The pass writes the name that it is given into the graph, where no mode sees it."""

    @functools.wraps(original)
    def move_to_device_pass(ep: Any, location: Any) -> Any:
        context = current()
        if context is None:
            return original(ep, location)
        frame = sys._getframe(1)

        def read(place: Any) -> Any:
            return context.device_for(place, frame) or place

        if not isinstance(location, dict):
            return original(ep, read(location))
        # Its keys are places in the program, which are on the target as well.
        return original(ep, {str(read(old)): str(read(new)) for old, new in location.items()})

    return move_to_device_pass


PATCHES: dict[str, tuple[Patch, ...]] = {
    _SERIALIZER: (
        Patch(
            imported(_SERIALIZER),
            "Device",
            _on_cpu_elsewhere,
            "names of devices are written into files in Python that asks nobody",
        ),
        Patch(
            imported(_SERIALIZER),
            "_dict_to_dataclass",
            _where_it_was,
            "of a device in a file torch reads what plain torch knows",
        ),
    ),
    _PASSES: (
        Patch(
            imported(_PASSES),
            "move_to_device_pass",
            _to_the_target,
            "written in Python without `__torch_function__`, so no mode sees the call",
        ),
    ),
}

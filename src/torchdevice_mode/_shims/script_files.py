"""Files of TorchScript: what they name is read by the policy, and what is saved loads elsewhere.

C++ reads and writes them. What is loaded with devices in its attributes is given the target's. What
is saved names the target nowhere: where a program's code names an accelerator, whoever runs it has
one, and its tensors are written as CUDA's; tensors of any other program are written as the CPU's,
and that they were on the target is noted in an extra file, of which plain torch knows nothing.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.jit

from .._active import current
from .._context import Context
from .._patches import caller
from ._script_float64 import attributes, place

__all__ = ["loading", "to_buffer", "to_file"]

_NOTE = "torchdevice"


# --- loading ------------------------------------------------------------------------------------


def loading(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def load(f: Any, map_location: Any = None, *args: Any, **kwargs: Any) -> Any:
        context = current()
        if context is None:
            return original(f, map_location, *args, **kwargs)
        frame = caller()
        from . import _script_archive as archive  # few programs that redirect load or save others

        if map_location is None and archive.has_record(f, f"extra/{_NOTE}"):
            map_location = "cuda"  # where it was, as its program thought
        if map_location is not None:
            # The program is asked where its tensors are to be, not torch.
            device = context.device_for(map_location, frame)
            module = _load_onto(
                context, original, frame, f, device or map_location, *args, **kwargs
            )
        else:
            module = _load_anywhere(context, original, frame, f, *args, **kwargs)
        _redirect_attributes(context, module, frame)
        return module

    return load


def _load_anywhere(
    context: Context, original: Callable[..., Any], frame: Any, f: Any, *args: Any, **kwargs: Any
) -> Any:
    """Load where the tensors were saved; those of a device that is not here go to the target."""
    position = f.tell() if hasattr(f, "tell") else None
    try:
        return original(f, None, *args, **kwargs)
    except (RuntimeError, NotImplementedError):
        device = context.device_for("cuda", frame)
        if device is None:
            raise
        if position is not None:
            f.seek(position)
        return _load_onto(context, original, frame, f, device, *args, **kwargs)


def _load_onto(
    context: Context, original: Callable[..., Any], frame: Any, f: Any, *args: Any, **kwargs: Any
) -> Any:
    """Load onto a device; by way of the CPU where the program holds what that lacks."""
    from .._downcast import IN_CPP, note_downcast, refused_dtype
    from .._float64 import explain_refusal

    position = f.tell() if hasattr(f, "tell") else None
    with torch._C.DisableTorchFunction():
        try:
            return original(f, *args, **kwargs)
        except (TypeError, RuntimeError) as error:
            if refused_dtype(str(error)) not in IN_CPP or not context.lacks_float64:
                raise
            if context.settings.float64 == "error":
                explain_refusal(error)
                raise
        if position is not None:
            f.seek(position)
        device, *rest = args
        module = original(f, "cpu", *rest, **kwargs)
    place(module, torch.device(device), keep_wide=context.settings.float64 == "cpu")
    if context.settings.float64 == "downcast":
        note_downcast(context, "a program", frame)
    return module


def _redirect_attributes(context: Context, module: Any, frame: Any) -> None:
    """Give a loaded module's attributes that are devices those of the target."""
    for part in module.modules():
        held = getattr(part, "_c", None)
        if held is None:
            continue
        for name in attributes(held, "DeviceObjType"):
            device = context.device_for(held.getattr(name), frame)
            if device is not None:
                held.setattr(name, device)


# --- saving -------------------------------------------------------------------------------------


def to_buffer(save_to_buffer: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(save_to_buffer)
    def save(self: Any, *args: Any, **kwargs: Any) -> Any:
        data = save_to_buffer(self, *args, **kwargs)
        context = current()
        if context is None or context.target.type == "cpu":
            return data
        from . import _script_archive as archive

        return archive.for_any_machine(data, str(context.target), _NOTE)

    return save


def to_file(save: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(save)
    def to_file(self: Any, filename: Any, *args: Any, **kwargs: Any) -> Any:
        context = current()
        if context is None or context.target.type == "cpu":
            return save(self, filename, *args, **kwargs)
        save(self, filename, *args, **kwargs)
        path = os.fspath(filename)
        with open(path, "rb") as file:  # noqa: PTH123 - as torch took the name
            data = file.read()
        from . import _script_archive as archive

        rewritten = archive.for_any_machine(data, str(context.target), _NOTE)
        if rewritten is not data:
            with open(path, "wb") as file:  # noqa: PTH123
                file.write(rewritten)
        return None

    return to_file

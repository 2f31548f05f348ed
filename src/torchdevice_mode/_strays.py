"""What the program is told of stray operands: every adoption is counted, and two are warned of.

A module whose weights stayed behind is copied at every call; so is a tensor that a loop uses from
the CPU. Both are put right by moving once what is then used often.
"""

from __future__ import annotations

import types
from typing import Any

import torch

from ._context import Context
from ._log import user_frame, warn_once
from ._origins import origin

__all__ = ["note_strays"]

_MANY = 1_000
# Every call of a module passes here, and its frame holds nothing but the call.
_CALLS_MODULE = torch.nn.Module._wrapped_call_impl.__code__


def note_strays(
    context: Context,
    name: str,
    strays: list[torch.Tensor],
    destination: torch.device,
    frame: types.FrameType,
    *,
    moved: int,
    seconds: float,
) -> None:
    """Count an adoption at the user's line, and say once what would make it needless.

    Args:
        context: The redirection.
        name: Of the function that torch refused.
        strays: The CPU tensors that it was given.
        destination: Where the call is made instead.
        frame: The frame that called torch.
        moved: How many bytes were copied.
        seconds: What bringing its operands there took.
    """
    place = origin(frame)
    asked, reason = f"a CPU tensor in {name}", "it met an accelerator tensor"
    times = context.record_cost(
        "adoption", asked, destination, reason, place, moved=moved, seconds=seconds
    )
    if destination.type == "cpu" or place is None:
        return
    line = (place.f_code, place.f_lineno, name)
    if line not in context.adopting_lines:
        context.adopting_lines.add(line)
        _warn_of_module(strays, destination, frame)
    if times == _MANY:
        warn_once(
            "repeated-adoption",
            f"A CPU tensor was copied to {destination} for {name} at this line {_MANY:,} times: "
            f"move it there once, with `x = x.to(device)`, before it is used.",
            key=(place.f_code, place.f_lineno),
            place=place,
        )


def _warn_of_module(
    strays: list[torch.Tensor], destination: torch.device, frame: types.FrameType
) -> None:
    """Name the outermost module that is being called, if the strays are weights of it."""
    called: torch.nn.Module | None = None
    caller: types.FrameType | None = frame
    at: types.FrameType | None = frame
    while at is not None:
        if at.f_code is _CALLS_MODULE:
            called, caller = at.f_locals["self"], at.f_back
        at = at.f_back
    if called is None:
        return
    called = getattr(called, "_orig_mod", called)  # of a compiled module
    # What processes share must stay where it is: `share_memory()` brought it there.
    ids = {id(tensor) for tensor in strays if not _is_shared(tensor)}
    left = [key for key, tensor in _tensors_of(called) if id(tensor) in ids]
    if not left:
        return
    module = type(called).__name__
    place = user_frame(caller)
    warn_once(
        "module-left-behind",
        f"{module} is on the CPU, at least `{left[0]}`, and is copied to {destination} at every "
        f"call with tensors from there: move the module once, with `.to(device)`.",
        key=(module, place and (place.f_code, place.f_lineno)),
        place=place,
    )


def _is_shared(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided and tensor.is_shared()


def _tensors_of(module: torch.nn.Module) -> list[tuple[str, Any]]:
    return [*module.named_parameters(), *module.named_buffers()]

"""Rows for `torch.device` itself, and for questions that a tensor answers about its device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._caller import asked_by_torch
from .._context import Context
from .._registry import Rule, caller, replacement
from .._spec import NOT_A_DEVICE, parse

__all__ = ["ROWS"]


def construct_device(
    context: Context, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """`torch.device(...)`: parsed here before torch does, which refuses `"cpu:-1"` and `"npu"`."""
    request = requested(args, kwargs)
    device = None if request is None else replacement(context, request, to_use=False)
    if device is None:
        return func(*args, **kwargs)
    # Already a device: called anew so that modes below ours, and Dynamo, see the construction.
    return func(device)


def requested(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The request that the arguments of `torch.device` make; None where they make none."""
    if len(args) == 1 and not kwargs:
        return args[0]
    given = dict(zip(("type", "index"), args, strict=False)) | kwargs
    request = parse(given.get("type", given.get("device")), given.get("index"))
    unknown = request is NOT_A_DEVICE or set(given) - {"type", "index", "device"}
    return None if unknown else request


def answer_is_cuda(
    context: Context, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """`x.is_cuda`: true for user code where CUDA requests go, so that assertions hold."""
    answer = func(*args, **kwargs)
    frame = caller(0)
    # As for absent devices: `PackedSequence.is_cuda` asks on the user's behalf.
    if answer or frame is None or asked_by_torch(frame, absent=True):
        return answer
    return bool(args[0].device.type == context.cuda_type.type)


def answer_get_device(
    context: Context, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """`x.get_device()`: an index that can be asked for again; plain torch gives -1 on the CPU."""
    answer = func(*args, **kwargs)
    if answer >= 0:
        return answer
    frame = caller(0)
    # Without a frame it is the user who asks, in code that is compiled.
    if frame is not None and asked_by_torch(frame, absent=False):
        return answer
    return 0 if args[0].device.type == context.cuda_type.type else answer


ROWS: tuple[Rule, ...] = (
    Rule(("torch.device",), construct_device, "every device that a program names begins here"),
    Rule(
        ("torch.Tensor.is_cuda.__get__",),
        answer_is_cuda,
        "programs assert it to learn whether they run on the accelerator",
    ),
    Rule(
        ("torch.Tensor.get_device", "torch.get_device"),
        answer_get_device,
        "its result is used as a device index",
    ),
)

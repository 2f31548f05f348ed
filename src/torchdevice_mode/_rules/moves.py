"""Rows for calls that move a tensor or a module: `.to`, `.cuda()`, `.cpu()`, `.type`, pinning."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.compiler import is_compiling

from .._caller import asked_by_torch
from .._context import Context
from .._dtypes import HELD_ONLY, bytes_of, refuse_held
from .._registry import Rule, caller, replacement

__all__ = ["ROWS"]


def move_to(
    context: Context, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """`Tensor.to` in all its forms; `nn.Module.to` comes here too, tensor by tensor.

    The device is the keyword, or the first argument if that is no dtype and no tensor.
    """
    by_keyword = "device" in kwargs
    request = kwargs["device"] if by_keyword else args[1] if len(args) > 1 else None
    args, kwargs = _blocking(context, args, kwargs)
    if request is None or isinstance(request, (torch.dtype, torch.Tensor)):
        return func(*args, **kwargs)
    device = replacement(context, request)
    began = 0.0 if device is None else _copy_begins(args[0], device)
    if device is None:
        moved = func(*args, **kwargs)
    elif by_keyword:
        moved = func(*args, **{**kwargs, "device": device})
    else:
        moved = func(args[0], device, *args[2:], **kwargs)
    if began:
        _note_copy(context, request, args[0], moved, began)
    if request == "cpu":
        _note_kept(context, args[0], moved)
    if moved.dtype is HELD_ONLY:
        refuse_held(moved, context.lacks_float64)
    return moved


_PLAIN = (torch.Tensor, torch.nn.Parameter)


def _copy_begins(tensor: torch.Tensor, device: torch.device) -> float:
    """When a redirected move begins that copies; 0 for others, and while compiling."""
    return 0.0 if tensor.device == device or is_compiling() else time.perf_counter()


def _note_copy(
    context: Context, request: Any, tensor: torch.Tensor, moved: torch.Tensor, began: float
) -> None:
    """Say what a redirected move cost, where it went from one device to another."""
    seconds = time.perf_counter() - began
    if type(tensor) not in _PLAIN or tensor.device.type == moved.device.type:
        return
    context.add_cost(request, caller(1), moved=bytes_of(moved), seconds=seconds)


def _note_kept(context: Context, tensor: torch.Tensor, moved: torch.Tensor) -> None:
    """Remember what a move to the CPU gave back as it was, where CUDA would have copied it."""
    if moved is not tensor or is_compiling() or type(moved) not in _PLAIN or moved.is_inference():
        return
    # Most moves are of results, never written into; weights were, by their initialisation.
    if moved._version and moved.device.type == context.target.type:
        context.kept.note(moved, caller(1))


def _blocking(
    context: Context, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Without `non_blocking` where the target is MPS: asynchronous copies corrupt data there
    (pytorch issues 139550 and 189690)."""
    if context.target.type != "mps":
        return args, kwargs
    if kwargs.get("non_blocking"):
        kwargs = {**kwargs, "non_blocking": False}
    # `x.to(device, dtype, non_blocking)`, but `x.to(dtype, non_blocking)`.
    position = 3 if len(args) > 2 and not isinstance(args[2], bool) else 2
    if len(args) > position and args[position] is True:
        args = (*args[:position], False, *args[position + 1 :])
    return args, kwargs


def move_to_named(device_type: str) -> Callable[..., Any]:
    """The handler of `Tensor.cuda`, `.cpu`, `.xpu` ...: methods that are called like a device.

    Args:
        device_type: The device type that the method stands for.

    Returns:
        A handler that makes the move with `Tensor.to`, if it is to be redirected.
    """

    def move(
        context: Context, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        index = args[1] if len(args) > 1 else kwargs.get("device")
        request: Any = device_type
        if isinstance(index, int) and not isinstance(index, bool) and index >= 0:
            request = f"{device_type}:{index}"
        elif index is not None and not _is_what_it_means(context, device_type, index):
            request = index
        device = replacement(context, request)
        if device is None or not set(kwargs) <= _MOVE_KEYWORDS:
            moved = func(*args, **kwargs)
            if request == "cpu":
                _note_kept(context, args[0], moved)
            return moved
        memory_format = kwargs.get("memory_format", torch.preserve_format)
        blocking = device.type == "mps" or not _non_blocking(args, kwargs)
        began = _copy_begins(args[0], device)
        moved = torch.Tensor.to(
            args[0], device, non_blocking=not blocking, memory_format=memory_format
        )
        if began:
            _note_copy(context, request, args[0], moved, began)
        if request == "cpu":
            _note_kept(context, args[0], moved)
        if moved.dtype is HELD_ONLY:
            refuse_held(moved, context.lacks_float64)
        return moved

    return move


def _is_what_it_means(context: Context, device_type: str, given: Any) -> bool:
    """Whether a device is the one that requests for a type get, as `torch.device("cuda")` is here.

    A program makes the device first, and `x.cuda(device)` is given what it was made to.
    """
    if not isinstance(given, (str, torch.device)):
        return False
    kind = given.type if isinstance(given, torch.device) else given.partition(":")[0]
    meant = context.cuda_type if device_type == "cuda" else context.target
    return kind == meant.type != device_type


_MOVE_KEYWORDS = frozenset({"device", "non_blocking", "async", "memory_format"})


def _non_blocking(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return bool(args[2] if len(args) > 2 else kwargs.get("non_blocking", False))


_DTYPES = {
    "FloatTensor": torch.float32,
    "DoubleTensor": torch.float64,
    "HalfTensor": torch.float16,
    "BFloat16Tensor": torch.bfloat16,
    "ByteTensor": torch.uint8,
    "CharTensor": torch.int8,
    "ShortTensor": torch.int16,
    "IntTensor": torch.int32,
    "LongTensor": torch.int64,
    "BoolTensor": torch.bool,
}


def change_type(
    context: Context, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """`x.type("torch.cuda.FloatTensor")`: a dtype and a device in one name."""
    wanted = args[1] if len(args) > 1 else kwargs.get("dtype")
    if wanted is None:
        name, frame = func(*args, **kwargs), caller(0)
        if frame is not None and asked_by_torch(frame, absent=False):
            return name
        return _name_of_type(context, name, args[0])
    name = getattr(wanted, "_tensor_type_name", wanted)
    if not isinstance(name, str) or name.count(".") not in (2, 3):
        return func(*args, **kwargs)
    _, device_type, *layout, class_name = name.split(".")
    dtype = _DTYPES.get(class_name)
    device = replacement(context, device_type) if dtype is not None else None
    if device is None or layout not in ([], ["sparse"]):
        return func(*args, **kwargs)
    moved = torch.Tensor.to(args[0], device, dtype)
    return moved.to_sparse() if layout and not moved.is_sparse else moved


def _name_of_type(context: Context, name: Any, tensor: torch.Tensor) -> Any:
    """The name of a tensor's type, which programs compare with that of a CUDA tensor."""
    stands_for_cuda = context.cuda_type.type
    if stands_for_cuda == "cuda" or tensor.device.type != stands_for_cuda:
        return name
    *path, class_name = name.removeprefix("torch.").removeprefix(f"{stands_for_cuda}.").split(".")
    return ".".join(["torch", "cuda", *path, class_name])


def pin(
    context: Context, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """`x.pin_memory()`: the tensor itself where no CUDA device would profit from it.

    With CUDA as target, what the program asked for on the CPU may be on the GPU already.
    """
    if context.target.type == "cuda" and args[0].device.type == "cpu":
        return func(*args, **kwargs)
    return args[0]


def record_stream(
    context: Context, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """`x.record_stream(s)`: nothing to do where all work is done on one stream."""
    return func(*args, **kwargs) if context.target.type == "cuda" else None


def ask_pinned(
    context: Context, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """`x.is_pinned("cuda")`: asked of no device where CUDA is not the target."""
    return func(*args, **kwargs) if context.target.type == "cuda" else func(args[0])


def copy_into(
    context: Context, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """`x.copy_(y, non_blocking=True)`, or of lists: made blocking where the target is MPS."""
    if context.target.type == "mps":
        if kwargs.get("non_blocking"):
            kwargs = {**kwargs, "non_blocking": False}
        args = (*args[:2], False) if len(args) > 2 else args
    return func(*args, **kwargs)


ROWS: tuple[Rule, ...] = (
    Rule(("torch.Tensor.to",), move_to, "the device may be positional"),
    Rule(("torch.Tensor.cuda",), move_to_named("cuda"), "the device is in the method's name"),
    Rule(("torch.Tensor.cpu",), move_to_named("cpu"), "the device is in the method's name"),
    Rule(("torch.Tensor.xpu",), move_to_named("xpu"), "the device is in the method's name"),
    Rule(("torch.Tensor.hpu",), move_to_named("hpu"), "the device is in the method's name"),
    Rule(("torch.Tensor.mtia",), move_to_named("mtia"), "the device is in the method's name"),
    Rule(("torch.Tensor.ipu",), move_to_named("ipu"), "the device is in the method's name"),
    Rule(("torch.Tensor.type",), change_type, "a device can be in the type's name"),
    Rule(("torch.Tensor.pin_memory",), pin, "pinned memory is for CUDA"),
    Rule(("torch.Tensor.record_stream",), record_stream, "only CUDA has more streams than one"),
    Rule(("torch.Tensor.is_pinned",), ask_pinned, "pinned memory is for CUDA"),
    Rule(
        ("torch.Tensor.copy_", "torch._foreach_copy_"),
        copy_into,
        "asynchronous copies corrupt data on MPS",
    ),
)

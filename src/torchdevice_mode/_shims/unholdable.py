"""Tensors of a file that the target cannot hold: float64, quantised, nested, compressed sparse.

float64 is rebuilt narrower. What the target has no kind of tensor for is rebuilt on the CPU, and
meets the others by adoption. The old file format has torch rebuild tensors before their memory is
read, so what was made of the memory is made once more when the file has been read.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch
import torch._utils
import torch.serialization

from .._active import current
from .._context import Context
from .._dtypes import NARROWER
from .._log import user_frame

__all__ = [
    "narrower",
    "nested_or_on_cpu",
    "quantised_on_cpu",
    "sparse_or_on_cpu",
    "with_second_pass",
]


class _Local(threading.local):
    """What is to be done once the file that is being read in this thread has been read."""

    def __init__(self) -> None:
        self.afterwards: list[Callable[[], object]] | None = None


_local = _Local()


def with_second_pass(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _legacy_load(*args: Any, **kwargs: Any) -> Any:
        if current() is None:
            return original(*args, **kwargs)
        before, _local.afterwards = _local.afterwards, []
        try:
            result = original(*args, **kwargs)
            with torch.no_grad():
                for do in _local.afterwards:
                    do()
            return result
        finally:
            _local.afterwards = before

    return _legacy_load


def _afterwards(do: Callable[[], object]) -> None:
    if _local.afterwards is not None:
        _local.afterwards.append(do)


def _on_cpu(storage: Any) -> Any:
    """A copy of a storage's memory on the CPU, as it is when the file has been read."""
    copy = storage.cpu()
    _afterwards(lambda: _untyped(copy).copy_(_untyped(storage)))
    return copy


def _untyped(storage: Any) -> Any:
    # A typed storage warns that it is deprecated when it is asked for its device.
    return getattr(storage, "_untyped_storage", storage)


def _note(context: Context, what: str) -> None:
    context.record(
        "fallback",
        f"{what} in a file",
        "cpu",
        f"{context.target.type} has no such tensors",
        user_frame(sys._getframe(1)),
    )


# --- float64 ------------------------------------------------------------------------------------


def narrower(rebuild: Callable[..., Any]) -> Callable[..., Any]:
    """A float64 tensor whose storage went to a target without float64 is rebuilt narrower."""

    @functools.wraps(rebuild)
    def _rebuild_tensor(storage: Any, storage_offset: Any, size: Any, stride: Any) -> Any:
        context = current()
        if context is None or not _is_too_wide(context, storage):
            return rebuild(storage, storage_offset, size, stride)
        wide = rebuild(_on_cpu(storage), storage_offset, size, stride)
        if context.settings.float64 == "cpu":
            _note(context, "a float64 tensor")
            return wide
        narrower = NARROWER[wide.dtype]
        narrow = wide.to(narrower).to(context.target)
        memory = narrow.detach()  # torch may yet mark the other as conjugate or negative
        _afterwards(lambda: memory.copy_(wide.to(narrower)))
        from .._downcast import note_downcast

        note_downcast(context, "a file", user_frame(sys._getframe(1)))
        return narrow

    return _rebuild_tensor


def _is_too_wide(context: Context, storage: Any) -> bool:
    return (
        bool(context.lacks_float64)
        and context.settings.float64 != "error"
        and storage.dtype in NARROWER
        and _untyped(storage).device.type == context.target.type
    )


# --- other kinds of tensors ---------------------------------------------------------------------


def quantised_on_cpu(rebuild: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(rebuild)
    def _rebuild_qtensor(
        storage: Any, offset: Any, size: Any, stride: Any, quantizer: Any, *rest: Any
    ) -> Any:
        context = current()
        if context is None or not _lacks_kinds(context, _untyped(storage).device):
            return rebuild(storage, offset, size, stride, quantizer, *rest)
        _note(context, "a quantised tensor")
        # Of the dtype that torch keeps, so that it keeps these tensors themselves.
        exact = torch.float64 if quantizer[0] is torch.per_channel_affine else None
        quantizer, _ = _copied(context.target, quantizer, exact)
        return rebuild(_on_cpu(storage), offset, size, stride, quantizer, *rest)

    return _rebuild_qtensor


def _lacks_kinds(context: Context, device: torch.device) -> bool:
    """Whether a device is the target, and one that quantised tensors were never made for."""
    return device.type == context.target.type and device.type not in ("cpu", "cuda")


def _or_on_cpu(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Rebuild on the CPU what the target refuses to hold."""

    def decorate(rebuild: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(rebuild)
        def rebuild_there(*args: Any) -> Any:
            context = current()
            if context is None or context.target.type == "cpu":
                return rebuild(*args)
            try:
                # Past the mode, which would copy what has yet to be read.
                with torch._C.DisableTorchFunction():
                    return rebuild(*args)
            except (RuntimeError, NotImplementedError):
                copies, moved = _copied(context.target, args)
                if not moved:
                    raise
                made = rebuild(*copies)
            _note(context, what)
            return made

        return rebuild_there

    return decorate


def _copied(target: torch.device, value: Any, exact: torch.dtype | None = None) -> tuple[Any, bool]:
    """The arguments with the target's tensors on the CPU, and whether there were any.

    Floating-point tensors are given the exact dtype, where one is named.
    """
    if isinstance(value, torch.Tensor) and value.device.type == target.type:
        dtype = exact if exact is not None and value.is_floating_point() else value.dtype
        with torch._C.DisableTorchFunction():
            copy = value.to("cpu").to(dtype)
        _afterwards(lambda: copy.copy_(value))
        return copy, True
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
        pairs = [_copied(target, item, exact) for item in value]
        return type(value)(copy for copy, _ in pairs), any(moved for _, moved in pairs)
    return value, False


sparse_or_on_cpu = _or_on_cpu("a sparse tensor")
nested_or_on_cpu = _or_on_cpu("a nested tensor")

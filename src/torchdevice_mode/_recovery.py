"""What is done when torch refuses a call: costs nothing where nothing is wrong.

A call is made as it came. If torch refuses it for a reason that redirection answers for, the
call is made once more with what was wrong put right. torch checks devices and dtypes before it
computes, so the refused call has changed nothing.

In the order in which they are tried: a stray CPU tensor is *adopted*; float64 that the target
lacks is cast down; a request for an absent accelerator that no rule saw is rewritten; memory
that ran out is reported as the exception that CUDA programs catch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ._caller import asked_by_torch, calling_frame
from ._context import Context, is_accelerator_request
from ._log import user_frame, warn_once

__all__ = ["recover"]

# Texts of torch 2.13 for operands on different devices; several backends word it their own way.
_MISMATCH = re.compile(
    r"(same|different|two|CPU|cpu|same-) ?devices?|device type|on (the )?cpu|on the same"
    r"|Placeholder storage has not been allocated|should be the same|CPU tensor"
    r"|indices should be|at the same device|device=|non-cpu|index is on|resides on host"
)
_NO_FLOAT64 = re.compile(r"doesn't support float64|does not have support for that dtype")
_ABSENT_ACCELERATOR = re.compile(
    r"Torch not compiled with|not compiled with \w+ enabled|from the '\w+' backend"
    r"|not linked with support for|without \w+ support|No CUDA GPUs|Found no NVIDIA driver"
    r"|Cannot initialize \w+ without|Cannot get \w+ generator|Invalid device string"
    r"|Expected one of cpu|Cannot access accelerator device|is not available"
)
_OUT_OF_MEMORY = re.compile(r"(MPS backend )?out of memory", re.IGNORECASE)

_NARROWER: dict[torch.dtype, torch.dtype] = {
    torch.float64: torch.float32,
    torch.complex128: torch.complex64,
}

Retry = Callable[[], Any]


def recover(
    context: Context,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    error: Exception,
) -> Retry | None:
    """Find a way to make a refused call succeed.

    Args:
        context: The redirection.
        func: The torch function that raised.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        error: What it raised.

    Returns:
        A function that makes the call anew, or None to let the error pass.

    Raises:
        torch.OutOfMemoryError: In place of the target's own out-of-memory error.
    """
    text = str(error)
    if _is_out_of_memory(error, text):
        raise out_of_memory(error) from error
    frame = calling_frame(2)
    if isinstance(error, (RuntimeError, IndexError, ValueError)) and _MISMATCH.search(text):
        adopted = _adopt(context, func, args, kwargs)
        if adopted is not None:
            new_args, new_kwargs, moved = adopted
            context.record("adoption", moved, context.target, "it met an accelerator tensor", frame)
            return lambda: func(*new_args, **new_kwargs)
    if isinstance(error, (TypeError, RuntimeError)) and _NO_FLOAT64.search(text):
        return _cast_down(context, func, args, kwargs, frame)
    if _ABSENT_ACCELERATOR.search(text):
        return _rewrite_requests(context, func, args, kwargs, frame)
    return None


def _is_out_of_memory(error: Exception, text: str) -> bool:
    return (
        isinstance(error, RuntimeError)
        and not isinstance(error, torch.OutOfMemoryError)
        and _OUT_OF_MEMORY.search(text) is not None
    )


def out_of_memory(error: Exception) -> torch.OutOfMemoryError:
    """The target's out-of-memory error as the exception that CUDA programs catch."""
    text = str(error)
    if "out of memory." not in text:
        # accelerate and others look for CUDA's own wording, full stop included.
        text = f"CUDA out of memory. {text}"
    return torch.OutOfMemoryError(text)


# --- stray CPU tensors ----------------------------------------------------------------------


def _adopt(
    context: Context, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], str] | None:
    """Bring the operands of a call to one device.

    They go to the accelerator, except where the call writes into a CPU tensor: that very
    object must change, so the call is made on the CPU.
    """
    leaves, spec = pytree.tree_flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    accelerator = next((t.device for t in tensors if t.device.type not in ("cpu", "meta")), None)
    strays = [t for t in tensors if t.device.type == "cpu"]
    if accelerator is None or not strays:
        return None
    written = _written(func, args, kwargs)
    destination = accelerator
    if written and all(t.device.type == "cpu" for t in written):
        destination = torch.device("cpu")
    elif any(t.device.type == "cpu" for t in written):
        return None

    def moved(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or leaf.device == destination:
            return leaf
        return to_device(leaf, destination)

    new_args, new_kwargs = pytree.tree_unflatten([moved(leaf) for leaf in leaves], spec)
    return new_args, new_kwargs, f"a CPU tensor in {_name(func)}"


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move a tensor, narrowed where the device lacks its dtype; gradients flow back."""
    if device.type == "mps" and tensor.dtype in _NARROWER:
        tensor = tensor.to(_NARROWER[tensor.dtype])
    return tensor.to(device)


def _written(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[torch.Tensor]:
    """The tensors that a call writes into, by torch's naming rules."""
    out = kwargs.get("out")
    if out is not None:
        return [t for t in pytree.tree_leaves(out) if isinstance(t, torch.Tensor)]
    name = _name(func)
    in_place = name in ("__setitem__", "copy_") or (
        name.startswith("__i") and name.endswith("__") and name not in ("__invert__", "__index__")
    )
    if in_place or (name.endswith("_") and not name.endswith("__")):
        return [t for t in pytree.tree_leaves(args[:1]) if isinstance(t, torch.Tensor)]
    return []


def _name(func: Callable[..., Any]) -> str:
    return getattr(func, "__name__", type(func).__name__)


# --- float64 --------------------------------------------------------------------------------


def _cast_down(
    context: Context,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    frame: Any,
) -> Retry | None:
    """Make the call with float32 in place of float64, and complex64 in place of complex128.

    Not for torch's own code: where it rebuilds a tensor over a storage, another dtype would read
    the bytes wrongly.
    """
    if context.settings.float64 != "downcast" or asked_by_torch(frame, absent=True):
        return None
    name = _name(func)

    def narrowed(leaf: Any) -> Any:
        if isinstance(leaf, torch.dtype):
            return _NARROWER.get(leaf, leaf)
        if isinstance(leaf, torch.Tensor) and leaf.dtype in _NARROWER:
            return leaf.to(_NARROWER[leaf.dtype])
        return leaf

    new_args, new_kwargs = pytree.tree_map(narrowed, (args, kwargs))
    if name == "double":
        func, new_args = torch.Tensor.to, (new_args[0], torch.float32)
    elif name == "cdouble":
        func, new_args = torch.Tensor.to, (new_args[0], torch.complex64)
    elif name == "type" and len(new_args) > 1 and isinstance(new_args[1], str):
        new_args = (new_args[0], new_args[1].replace("Double", "Float"), *new_args[2:])
    elif name in ("tensor", "as_tensor", "asarray") and new_kwargs.get("dtype") is None:
        new_kwargs["dtype"] = torch.float32
    note_downcast(context, name, frame)
    return lambda: func(*new_args, **new_kwargs)


def note_downcast(context: Context, name: str, frame: Any) -> None:
    """Count a downcast and warn at its call site, once."""
    context.record(
        "downcast", f"float64 in {name}", "float32", f"{context.target.type} has no float64", frame
    )
    user = user_frame(frame)
    site = None if user is None else (user.f_code.co_filename, user.f_lineno)
    warn_once(
        "float64-downcast",
        f"{name} asked for float64, which {context.target.type} lacks, and got float32: use "
        f'float32 here, or float64="cpu" to keep such tensors on the CPU.',
        key=site,
    )


# --- requests that no rule saw --------------------------------------------------------------


def _rewrite_requests(
    context: Context,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    frame: Any,
) -> Retry | None:
    """Rewrite accelerator requests among the arguments, and those made below the call.

    Custom operators and `torch.ops` reach here: they take devices like any function, and may
    make requests in C++ that only the dispatch mode sees.
    """
    from ._dispatch_mode import RedirectDispatchMode

    # `nn.Module.to(0)` is read by `_parse_to`. It has no row, since Dynamo replaces it and then
    # cannot compare it with other keys; what it reads reaches `Tensor.to`, which has one.
    kinds = (torch.device, str, int) if func is torch._C._nn._parse_to else (torch.device, str)
    changed = False

    def rewritten(leaf: Any) -> Any:
        nonlocal changed
        if not isinstance(leaf, kinds) or not is_accelerator_request(leaf):
            return leaf
        device = context.device_for(leaf, frame)
        if device is None:
            return leaf
        changed = True
        return device

    new_args, new_kwargs = pytree.tree_map(rewritten, (args, kwargs))
    below = isinstance(func, (torch._ops.OpOverload, torch._ops.OpOverloadPacket))
    if not changed and not below:
        return None

    def retry() -> Any:
        with RedirectDispatchMode(context):
            return func(*new_args, **new_kwargs)

    return retry

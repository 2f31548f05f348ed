"""Rows for functions that make tensors.

Which functions these are is torch's own list (`torch.utils._device._device_constructors`) and
its naming rules (`*_like`, `new_*`); what those miss is listed with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils import _device

from .._context import Context
from .._dtypes import HELD_ONLY, refuse_held
from .._registry import Rule, replacement

__all__ = ["ROWS"]


def make(
    context: Context, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """A factory: no device means the target, a generator's device, or an enclosing context's."""
    if not kwargs and not context_decides():
        # The commonest call; what follows is for the others.
        device = replacement(context, None)
        made = func(*args) if device is None else func(*args, device=device)
        if made.dtype is HELD_ONLY:
            refuse_held(made, context.lacks_float64)
        return made
    kwargs = unpinned(context, kwargs)
    request = kwargs.get("device")
    if kwargs.get("out") is not None and (request is None or replacement(context, request)):
        # What is filled decides, and may be on the CPU; torch refuses any other device.
        return func(*args, **{**kwargs, "device": None})
    if request is None:
        generator = kwargs.get("generator")
        if generator is not None and decides_device(context, generator):
            # torch refuses a generator of another device than the tensor's.
            return func(*args, **{**kwargs, "device": generator.device})
        if context_decides():
            return func(*args, **kwargs)
    device = replacement(context, request)
    made = func(*args, **kwargs) if device is None else func(*args, **{**kwargs, "device": device})
    if made.dtype is HELD_ONLY:
        refuse_held(made, context.lacks_float64)
    return made


def unpinned(context: Context, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments without `pin_memory` where no memory can be pinned.

    CUDA pins memory of the CPU. Without CUDA nobody can, and where requests for the CPU go to
    CUDA there is none to pin.
    """
    if not kwargs.get("pin_memory"):
        return kwargs
    on_cpu = context.resolve("cpu").device
    if context.cuda_type.type == "cuda" and (on_cpu is None or on_cpu.type == "cpu"):
        return kwargs
    return {**kwargs, "pin_memory": False}


def decides_device(context: Context, generator: torch.Generator) -> bool:
    """Whether a generator says where its tensors are to be.

    Not the CPU's own where numbers for all devices are drawn on it.
    """
    return context.settings.rng != "cpu" or generator.device.type != "cpu"


def context_decides() -> bool:
    """Whether `with torch.device(x)` or a default device fills in what is not named.

    Such a context is a mode below ours, or it would have filled the device in before we saw the
    call. What it holds went through the policy when it was made. (`_device.CURRENT_DEVICE` knows
    only of default devices in torch 2.13.)
    """
    count = torch._C._len_torch_function_stack()
    return count > 0 and any(
        isinstance(torch._C._get_function_stack_at(i), _device.DeviceContext) for i in range(count)
    )


def make_from_data(
    context: Context, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """`as_tensor`, `asarray`: no device means where the data is, if the data is a tensor."""
    data = args[0] if args else kwargs.get("data", kwargs.get("obj"))
    if kwargs.get("device") is None and isinstance(data, torch.Tensor):
        return func(*args, **kwargs)
    device = None
    if kwargs.get("device") is not None or not context_decides():
        device = replacement(context, kwargs.get("device"))
    made = func(*args, **kwargs) if device is None else func(*args, **{**kwargs, "device": device})
    if made.dtype is HELD_ONLY:
        refuse_held(made, context.lacks_float64)
    return made


def make_like(
    context: Context, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """`zeros_like`, `new_zeros`: no device means the device of the tensor that is given."""
    kwargs = unpinned(context, kwargs)
    request = kwargs.get("device")
    if request is None:
        return func(*args, **kwargs)
    device = replacement(context, request)
    return func(*args, **kwargs) if device is None else func(*args, **{**kwargs, "device": device})


def make_normal(
    context: Context, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """`torch.normal`: a factory only where it is given a size."""
    kwargs = unpinned(context, kwargs)
    sized = "size" in kwargs or len(args) > 2
    named = kwargs.get("device") is not None
    if not sized or (not named and context_decides()):
        return func(*args, **kwargs)
    generator = kwargs.get("generator")
    if generator is not None and not named and decides_device(context, generator):
        return func(*args, **{**kwargs, "device": generator.device})
    device = replacement(context, kwargs.get("device"))
    if device is not None and kwargs.get("out") is not None:
        return func(*args, **{**kwargs, "device": None})  # as in `make`
    return func(*args, **kwargs) if device is None else func(*args, **{**kwargs, "device": device})


def _torch_constructors() -> Iterable[str]:
    """torch's own list of constructors, by name, but for those with a handler of their own."""
    functions = _device._device_constructors() - {torch.as_tensor, torch.asarray}
    modules = (("torch", torch), ("torch.fft", torch.fft), ("torch.nested", torch.nested))
    for function in functions:
        for path, module in modules:
            name = getattr(function, "__name__", "").removeprefix("fft_")
            if getattr(module, name, None) is function:
                yield f"{path}.{name}"
                break


def _likes() -> Iterable[str]:
    """Functions that make a tensor in another's likeness, by torch's naming rules."""
    # Not by `dir`, which sorts: this is done when enabling.
    for name in vars(torch):
        if name.endswith("_like") and not name.startswith("_"):
            yield f"torch.{name}"
    for name in (*vars(torch.Tensor), *vars(torch._C.TensorBase)):
        if name.startswith("new_") or name == "new":
            yield f"torch.Tensor.{name}"


ROWS: tuple[Rule, ...] = (
    Rule(_torch_constructors, make, "torch's own list of constructors"),
    Rule(
        (
            "torch.from_file",
            "torch.vander",
            "torch.sparse.spdiags",
            "torch._empty_affine_quantized",
            "torch._empty_per_channel_affine_quantized",
        ),
        make_like,
        "they take a device that torch's list leaves out, and stay on the CPU without one",
    ),
    Rule(("torch.as_tensor", "torch.asarray"), make_from_data, "the data may have a device"),
    Rule(("torch.normal",), make_normal, "a factory in one of its forms only"),
    Rule(_likes, make_like, "torch's naming rules"),
)

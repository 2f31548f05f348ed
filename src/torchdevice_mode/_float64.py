"""Dtypes that the target lacks: float64 and complex128 above all.

The setting `float64` says what becomes of those two: they are cast down, stay on the CPU, or are
refused in torch's own words and one sentence more. Other dtypes that the target can hold but not
compute with, such as float8, are converted and computed with on the CPU.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ._context import Context, is_accelerator_request
from ._cpu_operator import cpu_generator
from ._downcast import IN_CPP, narrowed_arguments, note_downcast
from ._dtypes import NARROWER
from ._on_cpu import Call, compute_on_cpu, then_copied_back
from ._rules import RULES
from ._rules.factories import make, make_from_data, make_normal
from ._spec import TOGGLE, parse
from ._writes import name_of, writes

__all__ = [
    "cast_down",
    "exceeds_float32",
    "explain_refusal",
    "holds_float64",
    "mixes_widths",
    "saturate",
    "settle",
    "stay_on_cpu",
]

_OVERFLOW = re.compile(r"cannot be converted to type (float|c10::complex<float>) without overflow")
_CONVERTS = "the CPU converts to a dtype that the target lacks"
_MENTIONS = re.compile(r"(?i)\bdouble\b|float64|complex128|ComplexDouble")
_LARGEST = torch.finfo(torch.float32).max

# torch's own code that puts tensors together over bytes that exist, or reasons about dtypes.
_LEFT_ALONE = (
    "torch._",
    "torch.storage",
    "torch.serialization",
    "torch.multiprocessing",
    "torch.package",
    "torch.fx",
    "torch.export",
)
# Without a dtype these make what their data or the default dtype says, which may be float64.
_CHOOSE_DTYPE = (make, make_from_data, make_normal)
_WIDENING = {"double": torch.float32, "cdouble": torch.complex64}
_CONVERSIONS = frozenset({"to", "type", "type_as", *_WIDENING})


def settle(context: Context, call: Call, frame: Any, error: Exception, refused: str) -> Call | None:
    """Find a way for a call that was refused for a dtype.

    Not for torch's own code: where it rebuilds a tensor over a storage, another dtype would read
    the bytes wrongly.

    Args:
        context: The redirection.
        call: Function, positional and keyword arguments.
        frame: The frame that called torch.
        error: What torch raised; it is told of the setting where the setting says so.
        refused: The dtype, as `refused_dtype` has it.

    Returns:
        The call to make instead, or None to let the error pass.
    """
    if _is_left_alone(frame):
        if context.settings.float64 == "error" and refused in IN_CPP:
            explain_refusal(error)
        return None
    destination = _destination(context, call)
    if destination is not None and (destination.type == "cpu" or refused not in IN_CPP):
        return _converted_on_cpu(call, destination)
    if any(t.device.type == "cpu" for t in writes(*call).into):
        # It has the dtype, and Metal would have to convert on the way.
        name = name_of(call[0])
        context.record("adoption", f"an accelerator tensor in {name}", "cpu", _CONVERTS, frame)
        return stay_on_cpu(context, call)
    if refused not in IN_CPP:
        return compute_on_cpu(context, call, str(error), frame) or _then_moved(context, call)
    if context.settings.float64 == "cpu":
        reason = f"{context.target.type} has no float64, which is to stay on the CPU"
        context.record("fallback", f"float64 in {name_of(call[0])}", "cpu", reason, frame)
        return stay_on_cpu(context, call)
    if context.settings.float64 == "error":
        explain_refusal(error)
        return None
    # Where nothing given is float64, the kernel makes it on the way.
    return cast_down(context, call, frame, refused) or compute_on_cpu(
        context, call, str(error), frame, warn=False
    )


def _is_left_alone(frame: Any) -> bool:
    """Whether torch's own code asks, and not on somebody's behalf as `torch.ops` does."""
    while frame is not None and frame.f_globals.get("__name__") == "torch._ops":
        frame = frame.f_back
    module = None if frame is None else frame.f_globals.get("__name__")
    return isinstance(module, str) and module.startswith(_LEFT_ALONE)


def explain_refusal(error: Exception) -> None:
    """Add to torch's error what the setting has to do with it."""
    said = str(error)
    if "float64=" not in said:
        error.args = (
            f'{said.rstrip()} torchdevice was told float64="error": say float64="downcast" to '
            f'compute in float32, or float64="cpu" to keep such tensors on the CPU.',
        )


def holds_float64(call: Call) -> bool:
    """Whether a call is given a tensor of a dtype that the setting is about."""
    return any(
        isinstance(leaf, torch.Tensor) and leaf.dtype in NARROWER
        for leaf in pytree.tree_leaves(call[1:])
    )


# --- where a call stands --------------------------------------------------------------------


def _destination(context: Context, call: Call) -> torch.device | None:
    """Where a conversion takes its tensor; None for calls that convert nothing."""
    func, args, kwargs = call
    name = name_of(func)
    if name not in _CONVERSIONS or not args or not isinstance(args[0], torch.Tensor):
        return None
    tensor: torch.Tensor = args[0]
    other = args[1] if len(args) > 1 else kwargs.get("other")
    if isinstance(other, torch.Tensor):
        return other.device
    if name == "type" and not isinstance(other or kwargs.get("dtype"), torch.dtype):
        return torch.device("cpu") if _class_name(call).count(".") == 1 else None
    if name == "type":
        return tensor.device
    if name != "to":
        return None
    request = kwargs.get("device", other)
    if request is None or isinstance(request, torch.dtype):
        return tensor.device
    if parse(request) == TOGGLE:  # it has toggled already
        return torch.device("cpu")
    with torch._C.DisableTorchFunction():
        return context.resolve(request).device or torch.device(request)


def _converted_on_cpu(call: Call, destination: torch.device) -> Call:
    """The conversion, made on the CPU: a copy there and back keeps dtypes as they are."""
    tensor: torch.Tensor = call[1][0]
    dtype = _wanted_dtype(call)
    keywords = {k: v for k, v in call[2].items() if k in ("memory_format", "copy")}

    def convert() -> torch.Tensor:
        return tensor.to("cpu").to(dtype, **keywords).to(destination)

    return convert, (), {}


def _wanted_dtype(call: Call) -> torch.dtype:
    _, args, kwargs = call
    for given in (*args[1:], *kwargs.values()):
        if isinstance(given, torch.dtype):
            return given
        if isinstance(given, torch.Tensor):
            return given.dtype
    named = getattr(torch, _class_name(call).rpartition(".")[2], None) or args[0]
    dtype: torch.dtype = named.dtype
    return dtype


def _class_name(call: Call) -> str:
    """The name of the tensor type that `x.type(...)` is given, or an empty string."""
    _, args, kwargs = call
    given = args[1] if len(args) > 1 else kwargs.get("dtype")
    name = getattr(given, "_tensor_type_name", given)
    if isinstance(given, type) and not isinstance(name, str):
        name = f"{given.__module__}.{given.__name__}"
    return name if isinstance(name, str) else ""


# --- "downcast" -----------------------------------------------------------------------------


def cast_down(context: Context, call: Call, frame: Any, refused: str = "Double") -> Call | None:
    """Make the call with float32 in place of float64, and complex64 in place of complex128."""
    func, args, kwargs = call
    name = name_of(func)
    if any(t.dtype in NARROWER for t in writes(func, args, kwargs).into):
        return None
    narrow = narrowed_arguments(context, args, kwargs)
    new_args, new_kwargs = narrow or (args, dict(kwargs))
    class_name = _class_name(call)
    if name in _WIDENING:
        func, new_args, new_kwargs = torch.Tensor.to, (new_args[0], _WIDENING[name]), {}
    elif name == "type" and class_name.endswith("DoubleTensor"):
        new_args = (new_args[0], class_name.replace("Double", "Float"), *new_args[2:])
    elif narrow is None and _chooses_dtype(func) and kwargs.get("dtype") is None:
        new_kwargs["dtype"] = torch.complex64 if refused == "ComplexDouble" else torch.float32
    elif narrow is None:
        return None
    note_downcast(context, name, frame, IN_CPP[refused])
    return (_copied(context, func) if name in _CONVERSIONS else func), new_args, new_kwargs


def _copied(context: Context, convert: Callable[..., Any]) -> Callable[..., Any]:
    """A conversion, through its rule, that gives a tensor of its own, as one to float64 does: who
    writes into that does not mean the tensor that was converted.
    """
    rule = RULES.get(convert)

    def convert_a_copy(*args: Any, **kwargs: Any) -> Any:
        converted = rule(context, convert, args, kwargs) if rule else convert(*args, **kwargs)
        return converted.clone() if converted is args[0] else converted

    return convert_a_copy


def _chooses_dtype(func: Any) -> bool:
    return RULES.get(func) in _CHOOSE_DTYPE or name_of(func) == "new_tensor"


def mixes_widths(context: Context, call: Call, text: str) -> str | None:
    """What of a call meets tensors that were cast down, and was not, where torch complains of it.

    Args:
        context: The redirection.
        call: Function, positional and keyword arguments.
        text: torch's error.

    Returns:
        `"tensor"` for a float64 tensor on the CPU, `"dtype"` for a dtype that is asked for; None
        where the error is the program's own.
    """
    if not context.lacks_float64 or context.settings.float64 != "downcast":
        return None
    if _MENTIONS.search(text) is None:
        return None
    leaves = pytree.tree_leaves(call[1:])
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if not any(t.device.type == context.target.type for t in tensors):
        return None
    if any(t.dtype in NARROWER for t in tensors):
        return "tensor"
    asked = any(isinstance(leaf, torch.dtype) and leaf in NARROWER for leaf in leaves)
    return "dtype" if asked else None


def exceeds_float32(context: Context, text: str) -> bool:
    """Whether an error says that a number is too large for what float64 was cast down to."""
    return (
        bool(context.lacks_float64)
        and context.settings.float64 == "downcast"
        and _OVERFLOW.search(text) is not None
    )


def saturate(context: Context, call: Call, frame: Any) -> Call | None:
    """Give float32's largest number for those beyond, such as `torch.finfo(torch.float64).max`."""
    func, args, kwargs = call
    changed = False

    def within(leaf: Any) -> Any:
        nonlocal changed
        if not isinstance(leaf, float) or not math.isfinite(leaf) or abs(leaf) <= _LARGEST:
            return leaf
        changed = True
        return math.copysign(_LARGEST, leaf)

    new_args, new_kwargs = pytree.tree_map(within, (args, kwargs))
    if not changed:
        return None
    note_downcast(context, name_of(func), frame)
    return func, new_args, new_kwargs


# --- on the CPU -----------------------------------------------------------------------------


def stay_on_cpu(context: Context, call: Call) -> Call:
    """Make the call on the CPU, which has every dtype and layout, and leave the result there.

    Args:
        context: The redirection.
        call: Function, positional and keyword arguments.

    Returns:
        A call that does so, past the rules.
    """
    func, args, kwargs = call
    cpu = torch.device("cpu")
    name = name_of(func)
    copies: dict[int, torch.Tensor] = {}

    def on_cpu(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and leaf.device.type == context.target.type:
            if id(leaf) not in copies:
                copies[id(leaf)] = leaf.to(cpu)
            return copies[id(leaf)]
        if isinstance(leaf, torch._C.Generator):
            return cpu_generator(leaf)
        named = isinstance(leaf, (torch.device, str))
        return cpu if named and is_accelerator_request(leaf) else leaf

    new_args, new_kwargs = pytree.tree_map(on_cpu, (args, kwargs))
    if is_accelerator_request(kwargs.get("device")):
        new_kwargs["device"] = cpu  # a number, which elsewhere is no device
    if name in ("cuda", context.cuda_type.type):
        func, new_args, new_kwargs = torch.Tensor.to, (new_args[0], cpu), {}
    elif name == "to" and len(args) > 1 and type(args[1]) is int:
        new_args = (new_args[0], cpu, *new_args[2:])
    elif name == "type" and _class_name(call).endswith("DoubleTensor"):
        new_args = (new_args[0], torch.float64)
    elif "device" not in new_kwargs and RULES.get(func) in _CHOOSE_DTYPE:
        new_kwargs["device"] = cpu

    def past_the_rules(*args: Any, **kwargs: Any) -> Any:
        # A rule would send a request for the CPU back to the target.
        return func(*args, **kwargs)

    past_the_rules.__name__ = name
    return then_copied_back(past_the_rules, writes(*call), copies), new_args, new_kwargs


def _then_moved(context: Context, call: Call) -> Call | None:
    """Make a tensor on the CPU that the target can hold, and fill nothing into; then move it."""
    if RULES.get(call[0]) not in _CHOOSE_DTYPE:
        return None
    make_there, args, kwargs = stay_on_cpu(context, call)
    return (lambda: make_there(*args, **kwargs).to(context.target)), (), {}

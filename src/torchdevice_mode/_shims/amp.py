"""Mixed precision: autocast and GradScaler for CUDA act on the target.

Autocast is state of C++ by device type, and no mode sees it being set or asked. So what names a
device type is replaced: the constructor of `torch.autocast`, its `__enter__` (an instance may
have been made, as a decorator, before redirection began), and the functions that ask and set.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.amp.autocast_mode
import torch.amp.grad_scaler

from .._active import current
from .._context import Context
from .._log import is_library_frame, warn_once
from .._patches import Hook, Patch

__all__ = ["PATCHES"]

_F = TypeVar("_F", bound=Callable[..., Any])

# What autocast can compute in, by device type; CUDA's autocast takes float32 as well, which on
# these devices is what they do without autocast.
_DTYPES: dict[str, tuple[torch.dtype, ...]] = {
    "cpu": (torch.float16, torch.bfloat16),
    "mps": (torch.float16, torch.bfloat16),
}

# Old spellings: subclasses that name the device type on the user's behalf.
_SUBCLASSES = ("torch.cuda.amp.autocast_mode", "torch.cpu.amp.autocast_mode")

# C++ functions of plain torch, taken before anything is replaced.
_is_enabled = torch._C.is_autocast_enabled
_set_enabled = torch._C.set_autocast_enabled
_get_dtype = torch._C.get_autocast_dtype
_set_dtype = torch._C.set_autocast_dtype


def _redirected(device_type: Any, frame: types.FrameType | None) -> str | None:
    """The device type to act on in place of the one named, or None to leave it."""
    context = current()
    if context is None or not isinstance(device_type, str):
        return None
    return _redirected_in(context, device_type, frame)


def _redirected_in(context: Context, device_type: str, frame: types.FrameType | None) -> str | None:
    # `device_for` names a device also where it changes nothing; autocast wants a bare type.
    if device_type in (context.target.type, "cpu:-1"):
        return None
    device = context.device_for(device_type, frame)
    return None if device is None or device.type == device_type else device.type


def _asked(device_type: Any, frame: types.FrameType | None) -> str | None:
    """As `_redirected`, but not counted where torch asks: no line of the program names a device."""
    context = current()
    if context is None or device_type != "cuda" or frame is None or not is_library_frame(frame):
        return _redirected(device_type, frame)
    device = context.resolve(device_type).device
    return None if device is None or device.type == device_type else device.type


def _caller() -> types.FrameType | None:
    """The frame that called the replacement which calls this; none while compiling."""
    if torch.compiler.is_compiling():
        return None
    frame: types.FrameType | None = sys._getframe(2)
    if frame is not None and frame.f_globals.get("__name__") in _SUBCLASSES:
        frame = frame.f_back
    return frame


def _in_place_of(original: Callable[..., Any]) -> Callable[[_F], _F]:
    """`functools.wraps` without `__wrapped__`, which TorchScript would follow into C++."""

    def decorate(function: _F) -> _F:
        functools.update_wrapper(function, original)
        del function.__wrapped__  # type: ignore[attr-defined]
        return function

    return decorate


def _constant(function: _F) -> _F:
    """Let Dynamo call the function while tracing, as it does with torch's: it guards the state."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


# --- torch.autocast -----------------------------------------------------------------------------


@functools.cache
def _float16_is_emulated() -> bool:
    """Whether this CPU computes float16 by converting to and fro, but bfloat16 directly."""
    ask = getattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", None)
    other = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(ask and other and not ask() and other())


def _usable_dtype(
    asked: str, device_type: str, dtype: torch.dtype, *, enabled: bool = True
) -> torch.dtype:
    """The dtype asked for, or one that the target's autocast can compute in.

    Args:
        asked: The device type that the program named.
        device_type: The one whose autocast it gets.
        dtype: What the program wants to compute in.
        enabled: Whether anything will be computed in it; if not, there is nothing to warn of.
    """
    usable = _DTYPES.get(device_type)
    if dtype is torch.float16 and enabled and device_type == "cpu" and _float16_is_emulated():
        warn_once(
            "autocast-slow-dtype",
            f"autocast({asked!r}, dtype={dtype}) is slow on this CPU, which has no float16 "
            f"arithmetic: choose torch.bfloat16, which may be ten times faster.",
        )
    if usable is None or dtype in usable or dtype is torch.float32:
        return dtype
    if enabled:
        warn_once(
            "autocast-dtype",
            f"autocast({asked!r}, dtype={dtype}) computes in {usable[0]}, because autocast on "
            f"{device_type} does not support {dtype}: choose one of "
            f"{', '.join(map(str, usable))}.",
            key=(device_type, dtype),
        )
    return usable[0]


def _autocast_init(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def __init__(  # noqa: N807 - it replaces one
        self: Any,
        device_type: str,
        dtype: torch.dtype | None = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        frame = _caller()
        given = _redirected(device_type, frame)
        if given is None:
            return original(self, device_type, dtype, enabled, cache_enabled)
        # The default is CUDA's, not the target's: programs scale their loss for float16.
        dtype = _usable_dtype(device_type, given, dtype or _get_dtype(device_type), enabled=enabled)
        if dtype is torch.float32:
            # Nothing to cast; the target's autocast would warn and do the same.
            enabled, dtype = False, _get_dtype(given)
        original(self, given, dtype, enabled, cache_enabled)
        self._asked_device = device_type
        return None

    return __init__


def _autocast_enter(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def __enter__(self: Any) -> Any:  # noqa: N807 - it replaces one
        context = current()
        if context is not None and not hasattr(self, "_asked_device") and self.device == "cuda":
            frame = _caller()
            given = _redirected_in(context, "cuda", frame)
            if given is not None:
                region = _for_early(self, frame)
                vars(self).setdefault("_entered_for", []).append(region)
                region.__enter__()
                return self
        return original(self)

    return __enter__


def _autocast_exit(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def __exit__(self: Any, *error: Any) -> Any:  # noqa: N807 - it replaces one
        entered = vars(self).get("_entered_for")
        if entered:
            return original(entered.pop(), *error)
        return original(self, *error)

    return __exit__


def _for_early(instance: Any, frame: types.FrameType | None) -> Any:
    """The region for an autocast that plain torch made for CUDA, as a decorator at import.

    torch switched it off for want of CUDA, unless the program did: that is read in its source.
    """
    enabled = instance._enabled or _says_enabled(instance, frame)
    if not enabled and enabled is not False:
        # What it is for computes in float32 then, which is right and slower.
        warn_once(
            "autocast-early",
            "An autocast for CUDA was made before redirection began and stays switched off: "
            "enable torchdevice before the module that makes it is imported.",
        )
    return torch.amp.autocast_mode.autocast(
        "cuda", instance.fast_dtype, bool(enabled), instance._cache_enabled
    )


def _says_enabled(instance: Any, frame: types.FrameType | None) -> bool | None:
    """Whether the decorator that made an autocast says to enable it; None if that is not known."""
    if "_says_enabled" not in vars(instance):
        function = None
        if frame is not None and frame.f_code.co_name == "decorate_autocast":
            function = frame.f_locals.get("func")
        # `torch.cuda.amp.autocast(enabled)`, but `torch.autocast("cuda", dtype, enabled)`.
        position = 2 if type(instance) is torch.amp.autocast_mode.autocast else 0
        from ._decorators import read_enabled

        instance._says_enabled = read_enabled(function, position)
    found: bool | None = instance._says_enabled
    return found


# --- torch.amp.custom_fwd and custom_bwd --------------------------------------------------------


def _cast(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def cast(value: Any, device_type: str, dtype: torch.dtype) -> Any:
        return original(value, _redirected(device_type, None) or device_type, dtype)

    return cast


# --- torch.amp.GradScaler -----------------------------------------------------------------------


def _scaler_init(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def __init__(  # noqa: N807 - it replaces one
        self: Any, device: str = "cuda", *args: Any, **kwargs: Any
    ) -> None:
        name = str(device)
        original(self, _redirected(name, _caller()) or device, *args, **kwargs)

    return __init__


# --- asking and setting -------------------------------------------------------------------------


def _is_autocast_enabled(original: Callable[..., bool]) -> Callable[..., bool]:
    @_constant
    @_in_place_of(original)
    def is_autocast_enabled(device_type: Any = "cuda") -> bool:
        return original(_asked(device_type, _caller()) or device_type)

    return is_autocast_enabled


def _is_autocast_cpu_enabled(original: Callable[[], bool]) -> Callable[[], bool]:
    @_constant
    @_in_place_of(original)
    def is_autocast_cpu_enabled() -> bool:
        given = _redirected("cpu", _caller())
        return original() if given is None else _is_enabled(given)

    return is_autocast_cpu_enabled


def _get_autocast_dtype(original: Callable[..., torch.dtype]) -> Callable[..., torch.dtype]:
    @_constant
    @_in_place_of(original)
    def get_autocast_dtype(device_type: str) -> torch.dtype:
        given = _asked(device_type, _caller())
        # Outside of a region a program asks for CUDA's default, which is not the target's.
        return original(given if given is not None and _is_enabled(given) else device_type)

    return get_autocast_dtype


def _set_autocast_enabled(original: Callable[..., None]) -> Callable[..., None]:
    @_in_place_of(original)
    def set_autocast_enabled(*args: Any, **kwargs: Any) -> None:
        # The old form has no device and means CUDA.
        if len(args) + len(kwargs) == 1:
            args = ("cuda", *args)
        named = dict(zip(("device_type", "enabled"), args, strict=False)) | kwargs
        asked: Any = named.get("device_type")
        given = _redirected(asked, _caller())
        if given is None or named.keys() != {"device_type", "enabled"}:
            return original(*args, **kwargs)
        if named["enabled"]:
            _set_dtype(given, _usable_dtype(asked, given, _get_dtype(asked)))
        return original(given, named["enabled"])

    return set_autocast_enabled


def _set_autocast_dtype(original: Callable[..., None]) -> Callable[..., None]:
    @_in_place_of(original)
    def set_autocast_dtype(device_type: str, dtype: torch.dtype) -> None:
        given = _redirected(device_type, _caller())
        original(device_type, dtype)
        # Outside of a region it is remembered for CUDA alone, so that the target keeps its own.
        if given is not None and _is_enabled(given):
            original(given, _usable_dtype(device_type, given, dtype))

    return set_autocast_dtype


def _get_autocast_gpu_dtype(original: Callable[[], torch.dtype]) -> Callable[[], torch.dtype]:
    @_constant
    @_in_place_of(original)
    def get_autocast_gpu_dtype() -> torch.dtype:
        given = _redirected("cuda", _caller())
        return original() if given is None or not _is_enabled(given) else _get_dtype(given)

    return get_autocast_gpu_dtype


def _set_autocast_gpu_dtype(original: Callable[..., None]) -> Callable[..., None]:
    @_in_place_of(original)
    def set_autocast_gpu_dtype(dtype: torch.dtype) -> None:
        given = _redirected("cuda", _caller())
        original(dtype)
        if given is not None and _is_enabled(given):
            _set_dtype(given, _usable_dtype("cuda", given, dtype))

    return set_autocast_gpu_dtype


_CLASS = "a Python class that sets C++ state; no mode sees it made or entered"
_STATE = "asks or sets C++ state by device type, and is no torch function that a mode sees"

_ASKING = (
    "is_autocast_enabled",
    "get_autocast_dtype",
    "set_autocast_enabled",
    "set_autocast_dtype",
    "get_autocast_gpu_dtype",
    "set_autocast_gpu_dtype",
    "is_autocast_cpu_enabled",
)


def _known_to_torchscript() -> Callable[[], None]:
    """Let TorchScript take the replacements for the operators that the originals stand for.

    It knows C++ functions by identity, from a table that it makes at first use; so the
    originals must get into it also if that happens while they are replaced.
    """
    from torch.jit import _builtins

    pairs = [(getattr(torch, name), getattr(torch._C, name), f"aten::{name}") for name in _ASKING]
    originals = [(original, operator) for _, original, operator in pairs]
    _builtins._builtin_ops.extend(originals)
    if _builtins._builtin_table is not None:
        _builtins._builtin_table.update((id(new), operator) for new, _, operator in pairs)

    def forget() -> None:
        for pair in originals:
            _builtins._builtin_ops.remove(pair)
        if _builtins._builtin_table is not None:
            for new, _, _ in pairs:
                _builtins._builtin_table.pop(id(new), None)

    return forget


PATCHES: tuple[Patch | Hook, ...] = (
    Patch(lambda: torch.amp.autocast_mode.autocast, "__init__", _autocast_init, _CLASS),
    Patch(lambda: torch.amp.autocast_mode.autocast, "__enter__", _autocast_enter, _CLASS),
    Patch(lambda: torch.amp.autocast_mode.autocast, "__exit__", _autocast_exit, _CLASS),
    Patch(lambda: torch.amp.autocast_mode, "_cast", _cast, "compares device types itself"),
    Patch(lambda: torch.amp.grad_scaler.GradScaler, "__init__", _scaler_init, _CLASS),
    Patch(lambda: torch, "is_autocast_enabled", _is_autocast_enabled, _STATE),
    Patch(lambda: torch, "is_autocast_cpu_enabled", _is_autocast_cpu_enabled, _STATE),
    Patch(lambda: torch, "get_autocast_dtype", _get_autocast_dtype, _STATE),
    Patch(lambda: torch, "set_autocast_enabled", _set_autocast_enabled, _STATE),
    Patch(lambda: torch, "set_autocast_dtype", _set_autocast_dtype, _STATE),
    Patch(lambda: torch, "get_autocast_gpu_dtype", _get_autocast_gpu_dtype, _STATE),
    Patch(lambda: torch, "set_autocast_gpu_dtype", _set_autocast_gpu_dtype, _STATE),
    Hook(_known_to_torchscript, "TorchScript knows these C++ functions by identity"),
)

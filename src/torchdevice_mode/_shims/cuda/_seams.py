"""What CUDA programs call outside of torch.cuda, and no mode sees.

`torch.Stream` and `torch.Event` by device, the module of a device, states of random numbers,
and profilers that only CUDA builds can run.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.autograd.profiler
import torch.profiler
import torch.profiler.profiler
import torch.random
import torch.utils.checkpoint

from ..._active import current
from ..._patches import Patch
from ..._spec import parse
from .._capture import recording
from ..generators import set_state
from . import _random
from ._events import Event
from ._index import exchange
from ._streams import Stream
from ._surface import StandIn, redirection

__all__ = ["PATCHES"]


def _stands_for_cuda(device: Any) -> bool:
    """Whether a request that names a device, or none, means the device that stands for CUDA."""
    context = redirection()
    if context is None:
        return False
    if device is None or isinstance(device, int):
        return True
    given = context.resolve(device).device
    kind = given.type if given is not None else parse(device).type
    return kind == context.cuda_type.type


def _through_policy(device: Any) -> Any:
    """The device that a request is redirected to: `"mps"` on a machine with CUDA."""
    context = current()
    if context is None or not isinstance(device, (str, torch.device)):
        return device
    given = context.device_for(device, sys._getframe(2))
    return device if given is None else given


# --- torch.Stream and torch.Event ---------------------------------------------------------------

_PlainStream: Any = torch.Stream
_PlainEvent: Any = torch.Event


class _TorchStream(_PlainStream, metaclass=StandIn):  # type: ignore[misc]
    """`torch.Stream` whose device goes through the policy."""

    _original = _PlainStream

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        device = args[0] if args else kwargs.get("device")
        by_identity = "stream_id" in kwargs or len(args) > 1
        if cls is _TorchStream and not by_identity and _stands_for_cuda(device):
            index = device if isinstance(device, int) else None
            return Stream(index, priority=kwargs.get("priority", 0))
        if args and not by_identity:
            args = (_through_policy(device),)
        elif "device" in kwargs:
            kwargs["device"] = _through_policy(device)
        return _PlainStream.__new__(_PlainStream if cls is _TorchStream else cls, *args, **kwargs)


class _TorchEvent(_PlainEvent, metaclass=StandIn):  # type: ignore[misc]
    """`torch.Event` whose device goes through the policy."""

    _original = _PlainEvent

    def __new__(
        cls,
        device: Any = None,
        enable_timing: bool = False,
        blocking: bool = False,
        interprocess: bool = False,
    ) -> Any:
        if cls is _TorchEvent and _stands_for_cuda(device):
            if isinstance(device, int):
                exchange(device)
            event = Event(enable_timing, blocking, interprocess)
            event._is_torchs = True
            return event
        return _PlainEvent.__new__(
            _PlainEvent if cls is _TorchEvent else cls,
            _through_policy(device),
            enable_timing=enable_timing,
            blocking=blocking,
            interprocess=interprocess,
        )


for _class, _name in ((_TorchStream, "Stream"), (_TorchEvent, "Event")):
    _class.__module__ = "torch"
    _class.__name__ = _class.__qualname__ = _name


# --- devices and random numbers -----------------------------------------------------------------


def _get_device_module(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def get_device_module(device: Any = None) -> Any:
        # A program that asks for the module of its device goes on to call CUDA's functions.
        if isinstance(device, (str, torch.device)) or device is None:
            context = redirection()
            if context is not None and (device == "cuda" or _stands_for_cuda(device)):
                # torch itself asks about the accelerator that the machine has.
                if sys._getframe(1).f_globals.get("__name__") == "torch.accelerator":
                    return original(device)
                return torch.cuda
        return original(device)

    return get_device_module


def _get_rng_state(original: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """Where the target draws from the CPU's generator, its state is a part of the graph."""

    @functools.wraps(original)
    def get_rng_state() -> torch.Tensor:
        state = original()
        capture = recording()
        if capture is not None and _random.generator() is torch.default_generator:
            capture.recorder.read_state(torch.default_generator, state)
        return state

    return get_rng_state


def _set_rng_state(original: Callable[[torch.Tensor], None]) -> Callable[[torch.Tensor], None]:
    @functools.wraps(original)
    def set_rng_state(new_state: torch.Tensor) -> None:
        # The program's `.cpu()`, or loading a checkpoint, may have moved it to the target.
        if current() is None:
            return original(new_state)
        return set_state(torch.default_generator, new_state)

    return set_rng_state


def _fork_rng(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def fork_rng(
        devices: Iterable[Any] | None = None,
        enabled: bool = True,
        _caller: str = "fork_rng",
        _devices_kw: str = "devices",
        device_type: str | None = "cuda",
    ) -> Any:
        if redirection() is not None and device_type != "meta" and _stands_for_cuda(device_type):
            return _forked(devices) if enabled else contextlib.nullcontext()
        return original(devices, enabled, _caller, _devices_kw, device_type)

    return fork_rng


def _asks_for_device_module(function: Callable[..., Any]) -> bool:
    """Whether a function finds the module of a device by `get_device_module`, which we answer."""
    return "get_device_module" in inspect.unwrap(function).__code__.co_names


@contextlib.contextmanager
def _forked(devices: Iterable[Any] | None) -> Iterator[None]:
    """`fork_rng` by the functions of `torch.cuda`, whatever device answers for them."""
    numbers = list(range(torch.cuda.device_count())) if devices is None else list(devices)
    on_cpu = torch.get_rng_state()
    states = [torch.cuda.get_rng_state(device) for device in numbers]
    try:
        yield
    finally:
        torch.set_rng_state(on_cpu)
        for device, state in zip(numbers, states, strict=True):
            torch.cuda.set_rng_state(state, device)


class _MpsStates:
    """What checkpointing asks of a device's module, which `torch.mps` has only in part.

    Without it torch draws other dropout masks when it recomputes on MPS than it drew before.
    Recomputation runs in a thread of the autograd engine, so no redirection is asked here.
    """

    _initialized = True
    device = staticmethod(contextlib.nullcontext)

    @staticmethod
    def get_rng_state(device: Any = None) -> torch.Tensor:
        return _random.get_rng_state_of(torch.mps._get_default_mps_generator())

    @staticmethod
    def set_rng_state(new_state: torch.Tensor, device: Any = None) -> None:
        set_state(torch.mps._get_default_mps_generator(), new_state)


def _checkpoint_module(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _get_device_module(device: str = "cuda") -> Any:
        return _MpsStates if device == "mps" else original(device)

    return _get_device_module


# --- profilers ----------------------------------------------------------------------------------


def _with_cuda(original: Callable[[], set[Any]]) -> Callable[[], set[Any]]:
    @functools.wraps(original)
    def supported_activities() -> set[Any]:
        found = original()
        if redirection() is None:
            return found
        return found | {torch.profiler.ProfilerActivity.CUDA}

    return supported_activities


def _without_cuda(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def __init__(  # noqa: N807 - it replaces one
        self: Any, *args: Any, use_cuda: bool = False, use_device: str | None = None, **kwargs: Any
    ) -> None:
        if redirection() is not None and (use_cuda or use_device == "cuda"):
            # Kineto counts CUDA's kernels in CUDA builds only, and here complains at each call.
            use_cuda, use_device = False, None
            kwargs["use_cpu"] = True  # or there would be nothing left to count
        if use_cuda:
            kwargs["use_cuda"] = use_cuda
        original(self, *args, use_device=use_device, **kwargs)

    return __init__


def _silent_nvtx(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def __init__(  # noqa: N807 - it replaces one
        self: Any, enabled: bool = True, record_shapes: bool = False
    ) -> None:
        original(self, enabled and redirection() is None, record_shapes)

    return __init__


def _caching_is_on(original: Callable[[], bool] | None) -> Callable[[], bool]:
    def is_enabled() -> bool:
        return True if original is None or redirection() is not None else original()

    return is_enabled


PATCHES: tuple[Patch, ...] = (
    Patch(
        lambda: torch, "Stream", lambda original: _TorchStream, "a C++ class that takes a device"
    ),
    Patch(lambda: torch, "Event", lambda original: _TorchEvent, "a C++ class that takes a device"),
    Patch(lambda: torch, "get_rng_state", _get_rng_state, "a method of C++ that no mode sees"),
    Patch(lambda: torch.random, "get_rng_state", _get_rng_state, "a method of C++ no mode sees"),
    Patch(lambda: torch, "get_device_module", _get_device_module, "gives the target's own module"),
    Patch(lambda: torch, "set_rng_state", _set_rng_state, "a method of C++ that no mode sees"),
    Patch(lambda: torch.random, "set_rng_state", _set_rng_state, "a method of C++ no mode sees"),
    Patch(
        lambda: None if _asks_for_device_module(torch.random.fork_rng) else torch.random,
        "fork_rng",
        _fork_rng,
        "in torch 2.11 asks torch.cpu for states, which it does not have",
    ),
    Patch(
        lambda: torch.utils.checkpoint,
        "_get_device_module",
        _checkpoint_module,
        "on MPS torch does not keep the random state for recomputation",
    ),
    *(
        Patch(
            lambda module=module: module,  # type: ignore[misc]
            "supported_activities",
            _with_cuda,
            "asks Kineto, which was built without CUDA",
        )
        for module in (torch.profiler, torch.profiler.profiler)
    ),
    Patch(
        lambda: torch.autograd.profiler.profile,
        "__init__",
        _without_cuda,
        "asks torch.cuda whether there is a CUDA profiler",
    ),
    Patch(
        lambda: torch.autograd.profiler.emit_nvtx,
        "__init__",
        _silent_nvtx,
        "needs NVIDIA's marks, which only CUDA builds have",
    ),
    Patch(
        lambda: torch._C,
        "_cuda_cudaCachingAllocator_is_enabled",
        _caching_is_on,
        "Inductor calls it wherever torch.cuda is available",
    ),
)

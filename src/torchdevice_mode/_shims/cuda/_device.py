"""Which device there is: queries, the current device, properties, synchronisation."""

from __future__ import annotations

import sys
import time
import types
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from ... import _active
from ..._context import is_lost, refuse_lost
from ..._log import user_frame
from .._capture import forbid
from ._figures import figures, psutil
from ._index import checked_index, count, exchange, exists, index_of, visible_index
from ._surface import (
    Trace,
    emulated,
    mapped,
    native,
    plain,
    redirection,
    refusal,
    target,
    unsupported,
)

__all__ = ["synchronize_target"]

if TYPE_CHECKING:
    from ._properties import CudaDeviceProperties


_CONSTANT = Trace.CONSTANT


# --- is there one, and which --------------------------------------------------------------------


# Who generates code for a GPU, or wants streams and pinned memory of one, must be told the truth:
# in a CUDA build of torch they would call CUDA's driver. bitsandbytes has kernels for CUDA, MPS and
# the CPU: told of CUDA, it loads those that cannot run, and its import fails.
_NEED_A_GPU = (
    "bitsandbytes.",
    "torch._dynamo.device_interface.",
    "torch._inductor.",
    "torch.accelerator.",
    "triton.",
)


def _needs_a_gpu(frame: types.FrameType) -> bool:
    return f"{frame.f_globals.get('__name__')}.".startswith(_NEED_A_GPU)


_plain_is_available = plain("is_available")
_plain_device_count = plain("device_count")


@emulated("is_available", "CUDA requests are answered by the target", trace=_CONSTANT)
def is_available() -> bool:
    return not _needs_a_gpu(sys._getframe(2)) or bool(_plain_is_available())


@emulated("device_count", "one target stands for all CUDA devices", trace=_CONSTANT)
def device_count() -> int:
    return int(_plain_device_count()) if _needs_a_gpu(sys._getframe(2)) else count()


@emulated("current_device", "one target stands for all CUDA devices", trace=_CONSTANT)
def current_device() -> int:
    return 0


@emulated("is_initialized", "the target needs none, but a fork may have lost it", trace=_CONSTANT)
def is_initialized() -> bool:
    return not _is_in_bad_fork()


@emulated("init", "the target needs none, but a fork may have lost it", trace=_CONSTANT)
def init() -> None:
    if _is_in_bad_fork():
        refuse_lost("cuda")


@emulated("_lazy_init", "called by name it is `init`; from C++ it means a request was missed")
def _lazy_init() -> None:
    # torch's C++ remembers for good that the device was initialised if this returns, and plain
    # torch would behave otherwise ever after. So it must be told from a call in Python, which
    # has the name in its code.
    frame = sys._getframe(2)
    if "_lazy_init" in frame.f_code.co_names:
        init()
        return
    user = user_frame(frame)
    where = f"{user.f_code.co_filename}:{user.f_lineno}" if user else "the program"
    if _active.joined_late():
        raise AssertionError(
            f"Torch not compiled with CUDA enabled, and the thread that asks for a CUDA device at "
            f"{where} was running before torchdevice.enable(): enable before it starts, or use "
            f"torchdevice.redirect() in it."
        )
    raise AssertionError(
        f"Torch not compiled with CUDA enabled, and the request for a CUDA device at {where} "
        f"reached torch's C++ where torchdevice does not see it: name {target()} there."
    )


@emulated("_is_compiled", "what torch builds on must find a CUDA build", trace=_CONSTANT)
def _is_compiled() -> bool:
    return True


@mapped("_is_in_bad_fork", "the target decides whether a fork can use it")
def _is_in_bad_fork() -> bool:
    return is_lost(target().type)


native("has_half", "has_magma", reason="constants")
native("OutOfMemoryError", "AcceleratorError", reason="torch's own exceptions, raised here too")
native("CudaError", "DeferredCudaCallError", "cudaStatus", reason="definitions")


# --- the current device -------------------------------------------------------------------------


@emulated("set_device", "there is one device, so only its index is checked", trace=_CONSTANT)
def set_device(device: Any) -> None:
    exchange(index_of(device, optional=False))


@emulated("_exchange_device", "there is one device, so only its index is checked", trace=_CONSTANT)
def _exchange_device(device: int) -> int:
    return exchange(device)


@emulated(
    "_maybe_exchange_device", "there is one device, so only its index is checked", trace=_CONSTANT
)
def _maybe_exchange_device(device: int) -> int:
    return exchange(device)


_PlainDevice = plain("device")
_PlainDeviceOf = plain("device_of")


@emulated("device", "there is one device, so only its index is checked")
class device:  # noqa: N801 - torch's name
    """Context manager that selects a device."""

    def __new__(cls, device: Any) -> Any:
        if redirection() is None and cls.__module__ == "torch.cuda":
            return _PlainDevice(device)
        return object.__new__(cls)

    def __init__(self, device: Any) -> None:
        self.idx = index_of(device)
        self.prev_idx = -1

    def __enter__(self) -> None:
        self.prev_idx = exchange(self.idx)

    def __exit__(self, type: Any, value: Any, traceback: Any) -> None:
        self.idx = exchange(self.prev_idx)


@emulated("device_of", "there is one device, so only its index is checked")
class device_of(device):  # noqa: N801 - torch's name
    """Context manager that selects the device of a tensor or storage."""

    def __new__(cls, obj: Any) -> Any:
        if redirection() is None and cls.__module__ == "torch.cuda":
            return _PlainDeviceOf(obj)
        return object.__new__(cls)

    def __init__(self, obj: Any) -> None:
        super().__init__(0 if obj.device.type == target().type else -1)


device.__module__ = device_of.__module__ = "torch.cuda"


@emulated("_get_device", "the policy decides what a CUDA device is")
def _get_device(device: Any) -> torch.device:
    index_of(device)
    return target()


# --- what it is like ----------------------------------------------------------------------------


@emulated("get_device_properties", "CUDA's fields with this machine's facts", trace=_CONSTANT)
def get_device_properties(device: Any = None) -> CudaDeviceProperties:
    # Imported when asked: a class of so many fields takes a tenth of what enabling takes.
    from ._properties import properties

    checked_index(device)
    return properties(target().type)


@emulated("_get_device_properties", "CUDA's fields with this machine's facts", trace=_CONSTANT)
def _get_device_properties(device: int) -> CudaDeviceProperties:
    return get_device_properties(device)


@emulated("get_device_name", "the name of the real hardware", trace=_CONSTANT)
def get_device_name(device: Any = None) -> str:
    return get_device_properties(device).name


@emulated("get_device_capability", "the oldest that current programs expect", trace=_CONSTANT)
def get_device_capability(device: Any = None) -> tuple[int, int]:
    found = get_device_properties(device)
    return found.major, found.minor


@emulated("is_bf16_supported", "asked of the target", trace=_CONSTANT)
def is_bf16_supported(including_emulation: bool = True) -> bool:
    return _computes_bfloat16(target())


@cache
def _computes_bfloat16(device: torch.device) -> bool:
    try:
        # Creating one is not enough: some devices store bfloat16 and cannot multiply it.
        one = torch.ones(1, 1, dtype=torch.bfloat16, device=device)
        return bool((one @ one).item() == 1.0)
    except (RuntimeError, TypeError, NotImplementedError):
        return False


@emulated("is_tf32_supported", "tf32 is a format of NVIDIA's hardware", trace=_CONSTANT)
def is_tf32_supported() -> bool:
    return False


@emulated("can_device_access_peer", "there is no second device", trace=_CONSTANT)
def can_device_access_peer(device: Any, peer_device: Any) -> bool:
    checked_index(device)
    if not exists(index_of(peer_device, optional=False)):
        raise AssertionError("Invalid peer device id")
    return False


@emulated("get_arch_list", "this torch was compiled for no CUDA architecture", trace=_CONSTANT)
def get_arch_list() -> list[str]:
    return []


@emulated("get_gencode_flags", "this torch was compiled for no CUDA architecture", trace=_CONSTANT)
def get_gencode_flags() -> str:
    return ""


@emulated("default_generators", "the target's generator", computed=True)
def default_generators() -> tuple[torch.Generator, ...]:
    from ._random import generator

    return (generator(),) * count()


# --- waiting ------------------------------------------------------------------------------------


def synchronize_target(device: torch.device, asked: str = "", *, always: bool = False) -> None:
    """Wait until the device has done all its work; the CPU always has.

    Args:
        device: The device.
        asked: What the program called; empty for what is not counted.
        always: Whether it is counted on the CPU as well, where it takes no time.
    """
    began = time.perf_counter()
    if device.type != "cpu":
        module = getattr(torch, device.type, None)
        wait = getattr(module, "synchronize", None)
        if wait is not None:
            wait()
    elif not always:
        return
    holding = _active.current() if asked else None
    if holding is not None:
        frame = user_frame(sys._getframe(1))
        seconds = 0.0 if device.type == "cpu" else time.perf_counter() - began
        why = "it waits until the device has done its work"
        holding.record_cost("synchronisation", asked, device, why, frame, seconds=seconds)


@mapped("synchronize", "waits for the target", trace=_CONSTANT)
def synchronize(device: Any = None) -> None:
    exchange(index_of(device))
    forbid("torch.cuda.synchronize")
    figures(target().type).sample()
    synchronize_target(target(), "torch.cuda.synchronize", always=True)


@emulated("ipc_collect", "there is no CUDA memory that other processes hold", trace=_CONSTANT)
def ipc_collect() -> None:
    return None


@emulated("_sleep", "waits as long as a GPU of 1 GHz would")
def _sleep(cycles: int) -> None:
    time.sleep(cycles / 1e9)


_sync_debug_mode = 0
_SYNC_DEBUG_MODES = {"default": 0, "warn": 1, "error": 2}


@emulated("set_sync_debug_mode", "remembered; nothing is watched")
def set_sync_debug_mode(debug_mode: int | str) -> None:
    global _sync_debug_mode
    if isinstance(debug_mode, str):
        if debug_mode not in _SYNC_DEBUG_MODES:
            raise RuntimeError(
                "invalid value of debug_mode, expected one of `default`, `warn`, `error`"
            )
        debug_mode = _SYNC_DEBUG_MODES[debug_mode]
    if debug_mode not in (0, 1, 2):
        raise RuntimeError("invalid value of debug_mode, expected 0,1, or 2")
    _sync_debug_mode = debug_mode


@emulated("get_sync_debug_mode", "remembered; nothing is watched")
def get_sync_debug_mode() -> int:
    return _sync_debug_mode


# --- what nvidia-smi would say ------------------------------------------------------------------


_measured_before = False


@emulated("utilization", "how busy the processor is, from psutil")
def utilization(device: Any = None) -> int:
    global _measured_before
    visible_index(device)
    # psutil measures since it was last asked, and the first time nothing.
    interval = None if _measured_before else 0.1
    _measured_before = True
    return round(psutil().cpu_percent(interval))


@emulated("memory_usage", "the share of memory in use, from psutil")
def memory_usage(device: Any = None) -> int:
    visible_index(device)
    return round(psutil().virtual_memory().percent)


@emulated("device_memory_used", "the memory in use on the machine")
def device_memory_used(device: Any = None) -> int:
    visible_index(device)
    held = figures(target().type)
    return held.total() - held.free()


@emulated("clock_rate", "the processor's clock in MHz, from psutil, where it knows one")
def clock_rate(device: Any = None) -> int:
    visible_index(device)
    found = get_device_properties().clock_rate // 1000
    return found or _unknown("clock_rate", "no clock can be read here")


@emulated("temperature", "the warmest sensor that psutil finds, where there is one")
def temperature(device: Any = None) -> int:
    visible_index(device)
    ask = getattr(psutil(), "sensors_temperatures", dict)
    readings = [entry.current for entries in ask().values() for entry in entries]
    found = round(max(readings, default=0))
    return found or _unknown("temperature", "no sensor can be read here")


def _unknown(name: str, reason: str) -> int:
    return int(refusal(name, reason, "leave this measurement out on this machine")())


unsupported(
    "power_draw",
    reason="no library reads it without rights",
    instead="leave this measurement out on this machine",
)


# --- the CUDA runtime ---------------------------------------------------------------------------


class _Error:
    success = 0


def _mem_get_info(device: int) -> tuple[int, int]:
    exchange(device)
    held = figures(target().type)
    return held.free(), held.total()


_CUDART = types.SimpleNamespace(
    cudaError=_Error,
    cudaGetErrorString=lambda error: "no error" if error == 0 else f"error {error}",
    cudaProfilerStart=lambda: 0,
    cudaProfilerStop=lambda: 0,
    cudaHostRegister=lambda pointer, size, flags: 0,
    cudaHostUnregister=lambda pointer: 0,
    cudaStreamCreate=lambda pointer: 0,
    cudaStreamDestroy=lambda pointer: 0,
    cudaMemGetInfo=_mem_get_info,
)


@emulated("cudart", "a namespace with the functions that torch exposes")
def cudart() -> Any:
    return _CUDART


@emulated("check_error", "success is 0, as in CUDA")
def check_error(res: int) -> None:
    if res != 0:
        raise RuntimeError(f"error ({res})")


# --- kernels, and what torch writes in terms of other names -------------------------------------

native(
    "amp.autocast",
    "amp.GradScaler",
    "amp.custom_fwd",
    "amp.custom_bwd",
    "amp.autocast_mode.autocast",
    "amp.autocast_mode.custom_fwd",
    "amp.autocast_mode.custom_bwd",
    "amp.grad_scaler.GradScaler",
    reason="torch's own, which reach torch.autocast and GradScaler for CUDA, and these are seams",
)
native(
    "amp.amp_definitely_not_available",
    "amp.common.amp_definitely_not_available",
    reason="asks torch.cuda.is_available",
)
native("green_contexts.SUPPORTED", reason="a constant")

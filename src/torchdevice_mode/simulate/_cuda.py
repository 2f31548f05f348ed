"""What a CPU build of torch leaves out on the Python side of the `cuda` device.

Most of `torch.cuda` is Python over functions of `torch._C` that only a CUDA build has. They are
put there, over PyTorch's own calls for any accelerator, which reach the simulated device.
"""

from __future__ import annotations

import ctypes
import enum
import importlib
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from uuid import NAMESPACE_DNS, UUID, uuid5

import torch

__all__ = ["make_visible"]

_DEVICE_TYPE = 1  # CUDA's number in torch's C++
_LOWEST, _HIGHEST = 0, -5  # priorities of streams
_priorities: dict[int, int] = {}


def make_visible(library: ctypes.CDLL) -> None:
    """Set what torch lacks; it stays set.

    Args:
        library: The loaded device.
    """
    torch._C._has_cuda = True
    functions = {**_functions(), **_memory_functions(library), **_stream_functions()}
    # Inductor wants these of a build for CUDA when it is imported, for CUDA graphs.
    for name in ("_cuda_CUDAAllocator_AllocatorState", "_set_cached_tensors_enabled"):
        functions[name] = torch._utils._dummy_type(name)
    for name, function in functions.items():
        if not hasattr(torch._C, name):
            setattr(torch._C, name, function)
    cuda, runtime = torch.cuda, _cudart()
    is_in_bad_fork = lambda: bool(library.simulated_in_bad_fork())  # noqa: E731
    for name, value in {
        "_cuda_init": lambda: library.simulated_start() and None,
        "_cuda_isInBadFork": is_in_bad_fork,
        "_cudart": runtime,
        "_CudaDeviceProperties": _Properties,
    }.items():
        setattr(torch._C, name, value)
    for name, value in {
        "_is_in_bad_fork": is_in_bad_fork,
        "_cudart": runtime,
        "_exchange_device": functions["_cuda_exchangeDevice"],
        "_maybe_exchange_device": functions["_cuda_maybeExchangeDevice"],
        "_CudaDeviceProperties": _Properties,
        "_get_device_properties": lambda index: _properties(),
        # A real GPU that the driver knows of is none that this torch can use.
        "_raw_device_count_nvml": lambda: -1,
        "default_generators": (_default_generator(library),),
    }.items():
        setattr(cuda, name, value)
    # Real CUDA has cuDNN; torch warns of a build that has not, whenever an RNN is made.
    torch.backends.cudnn.is_acceptable = lambda tensor: False
    library.simulated_elapsed_milliseconds.restype = ctypes.c_double
    _EventBase._milliseconds = staticmethod(library.simulated_elapsed_milliseconds)
    _make_streams()


def _default_generator(library: ctypes.CDLL) -> torch.Generator:
    library.simulated_hand_out_default_generator()
    return torch.Generator("cuda")


def _select(index: int) -> int:
    """Make a device the current one; torch's own error where there is none."""
    if index < 0:
        return -1
    torch._C._accelerator_setDeviceIndex(index)
    return 0


def _functions() -> dict[str, Any]:
    mode = [0]
    return {
        "_cuda_getDeviceCount": lambda: 1,
        "_cuda_getDevice": lambda: 0,
        "_cuda_setDevice": lambda index: _select(index) and None,
        # Each its own: Dynamo has a handler for either.
        "_cuda_exchangeDevice": lambda index: _select(index),  # noqa: PLW0108
        "_cuda_maybeExchangeDevice": lambda index: _select(index),  # noqa: PLW0108
        "_cuda_synchronize": lambda: torch._C._accelerator_synchronizeDevice(0),
        "_cuda_canDeviceAccessPeer": lambda device, peer: False,
        "_cuda_ipc_collect": lambda: None,
        "_cuda_getArchFlags": lambda: None,
        "_cuda_get_sync_debug_mode": lambda: mode[0],
        "_cuda_set_sync_debug_mode": lambda level: mode.__setitem__(0, level),
        "_cuda_sleep": lambda cycles: None,
    }


# --- memory -------------------------------------------------------------------------------------


def _memory_functions(library: ctypes.CDLL) -> dict[str, Any]:
    library.simulated_set_fraction.argtypes = [ctypes.c_double]
    fraction = [1.0]

    def set_fraction(value: float, device: int) -> None:
        fraction[0] = value
        # All of it is what a device has that is given no limit.
        library.simulated_set_fraction(value if value < 1 else 0.0)

    return {
        "_cuda_emptyCache": torch._C._accelerator_emptyCache,
        "_cuda_memoryStats": torch._C._accelerator_getDeviceStats,
        "_cuda_resetPeakMemoryStats": torch._C._accelerator_resetPeakStats,
        "_cuda_resetAccumulatedMemoryStats": torch._C._accelerator_resetAccumulatedStats,
        "_cuda_setMemoryFraction": set_fraction,
        "_cuda_getMemoryFraction": lambda device: fraction[0],
        "_cuda_getAllocatorBackend": lambda: "native",
    }


def _memory_info(device: int) -> tuple[int, int]:
    free, total = torch.accelerator.get_memory_info(device)
    return free, total


class _Error(enum.IntEnum):
    """CUDA's own error numbers."""

    success = 0


def _cudart() -> ModuleType:
    """The CUDA runtime, as far as torch's Python calls it."""
    module = ModuleType("torch._C._cudart")
    vars(module).update(
        cudaError=_Error,
        cudaGetErrorString=lambda code: "no error" if code == 0 else "unknown error",
        cudaMemGetInfo=_memory_info,
        cudaProfilerStart=lambda: _Error.success,
        cudaProfilerStop=lambda: _Error.success,
        cudaHostRegister=lambda pointer, size, flags: _Error.success,
        cudaHostUnregister=lambda pointer: _Error.success,
    )
    return module


# --- properties ---------------------------------------------------------------------------------


_UUID = uuid5(NAMESPACE_DNS, "simulated-cuda")


@dataclass(frozen=True, slots=True)
class _Properties:
    """What `torch.cuda.get_device_properties` gives; the numbers are a small GPU's."""

    name: str = "Simulated CUDA"
    major: int = 8
    minor: int = 0
    total_memory: int = 0
    multi_processor_count: int = 8
    uuid: UUID = _UUID
    is_integrated: int = 0
    is_multi_gpu_board: int = 0
    max_threads_per_multi_processor: int = 2048
    max_threads_per_block: int = 1024
    warp_size: int = 32
    regs_per_multiprocessor: int = 65536
    shared_memory_per_block: int = 49152
    shared_memory_per_block_optin: int = 166912
    shared_memory_per_multiprocessor: int = 167936
    L2_cache_size: int = 4194304
    clock_rate: int = 1000000
    memory_clock_rate: int = 1000000
    memory_bus_width: int = 256
    pci_bus_id: int = 0
    pci_device_id: int = 0
    pci_domain_id: int = 0
    gcnArchName: str = "Simulated CUDA"  # noqa: N815 - CUDA's name


def _properties() -> _Properties:
    return _Properties(total_memory=_memory_info(0)[1])


# --- streams and events -------------------------------------------------------------------------


def _stream_functions() -> dict[str, Any]:
    def current(index: int) -> tuple[int, int, int]:
        stream = torch._C._accelerator_getStream(index)
        return stream.stream_id, stream.device_index, stream.device_type

    def select(*, stream_id: int, device_index: int, device_type: int) -> None:
        torch._C._accelerator_setStream(
            torch.Stream(stream_id=stream_id, device_index=device_index, device_type=device_type)
        )

    return {
        "_cuda_getCurrentStream": current,
        "_cuda_getCurrentRawStream": lambda index: current(index)[0],
        "_cuda_getDefaultStream": lambda index: (0, index, _DEVICE_TYPE),
        "_cuda_getStreamFromExternal": lambda pointer, index: (pointer, index, _DEVICE_TYPE),
        "_cuda_setStream": select,
    }


class _StreamBase(torch.Stream):
    """`torch._C._CudaStreamBase`: a stream's number is its handle, 0 the default stream's."""

    def __new__(
        cls,
        priority: int = 0,
        stream_id: int = 0,
        device_index: int = 0,
        device_type: int = 0,
        stream_ptr: int = 0,
    ) -> Any:
        if stream_ptr:
            stream_id = stream_ptr
        elif not (stream_id or device_index or device_type):
            stream_id = torch.Stream("cuda").stream_id
            _priorities[stream_id] = min(_LOWEST, max(_HIGHEST, priority))
        return super().__new__(
            cls, stream_id=stream_id, device_index=device_index, device_type=_DEVICE_TYPE
        )

    @property
    def cuda_stream(self) -> int:
        return self.stream_id

    @property
    def priority(self) -> int:
        return _priorities.get(self.stream_id, 0)

    @staticmethod
    def priority_range() -> tuple[int, int]:
        return _LOWEST, _HIGHEST


class _EventBase(torch.Event):
    """`torch._C._CudaEventBase`."""

    _timing: bool
    _milliseconds: Any  # between two events by their numbers; torch's own wants its own class

    def __new__(
        cls,
        enable_timing: bool = False,
        blocking: bool = False,
        interprocess: bool = False,
        external: bool = False,
    ) -> Any:
        event = super().__new__(cls, "cuda", enable_timing=enable_timing, blocking=blocking)
        event._timing = bool(enable_timing)
        return event

    @property
    def cuda_event(self) -> int:
        return self.event_id

    def elapsed_time(self, other: Any) -> float:
        if not isinstance(other, _EventBase):
            raise TypeError(
                "elapsed_time(): argument 'other' must be torch.cuda.Event, not "
                f"{type(other).__name__}"
            )
        if not (self._timing and other._timing):
            raise ValueError("Both events must be created with argument 'enable_timing=True'.")
        if not (self.event_id and other.event_id):
            raise ValueError("Both events must be recorded before calculating elapsed time.")
        return float(self._milliseconds(self.event_id, other.event_id))


def _make_streams() -> None:
    """Make torch's stream and event classes again, which were made over bases that do nothing."""
    _StreamBase.__name__, _EventBase.__name__ = "_CudaStreamBase", "_CudaEventBase"
    _StreamBase.__module__ = _EventBase.__module__ = "torch._C"
    setattr(torch._C, "_CudaStreamBase", _StreamBase)
    setattr(torch._C, "_CudaEventBase", _EventBase)
    names = ("Stream", "ExternalStream", "Event")
    module = torch.cuda.streams
    before = {getattr(module, name): name for name in names}
    importlib.reload(module)
    for name, holder in list(sys.modules.items()):
        if name.partition(".")[0] == "torch":
            for attribute, value in list(vars(holder).items()):
                # Not by `isinstance`, which some of torch's deprecated objects warn of.
                if issubclass(type(value), type) and value in before:
                    setattr(holder, attribute, getattr(module, before[value]))

"""What CUDA tells of a device, with this machine's facts in it."""

from __future__ import annotations

import os
import platform
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from ._figures import figures, psutil

__all__ = ["CudaDeviceProperties", "properties"]

# The oldest that current programs expect.
_CAPABILITY = (7, 0)
_MIB = 1024 * 1024


class DeviceUUID:
    """A device's number; its text and its bytes are as CUDA gives them."""

    def __init__(self, value: uuid.UUID) -> None:
        self._value = value

    @property
    def bytes(self) -> list[int]:
        """The sixteen bytes."""
        return list(self._value.bytes)

    def __str__(self) -> str:
        return str(self._value)


@dataclass(frozen=True, eq=False)
class CudaDeviceProperties:
    """The fields of CUDA's device properties, with this machine's facts.

    What only an NVIDIA device has is given as its compute capability 7.0 prescribes.
    """

    name: str
    major: int
    minor: int
    total_memory: int
    multi_processor_count: int
    uuid: DeviceUUID
    is_integrated: int
    is_multi_gpu_board: int = 0
    max_threads_per_multi_processor: int = 2048
    max_threads_per_block: int = 1024
    warp_size: int = 32
    regs_per_multiprocessor: int = 65536
    shared_memory_per_block: int = 49152
    shared_memory_per_block_optin: int = 98304
    shared_memory_per_multiprocessor: int = 98304
    L2_cache_size: int = 6291456
    clock_rate: int = 0
    memory_clock_rate: int = 0
    memory_bus_width: int = 0
    pci_bus_id: int = 0
    pci_device_id: int = 0
    pci_domain_id: int = 0
    gcnArchName: str = ""  # noqa: N815 - CUDA's name

    def __repr__(self) -> str:
        return (
            f"_CudaDeviceProperties(name='{self.name}', major={self.major}, minor={self.minor}, "
            f"total_memory={self.total_memory // _MIB}MB, "
            f"multi_processor_count={self.multi_processor_count}, uuid={self.uuid}, "
            f"pci_bus_id={self.pci_bus_id}, pci_device_id={self.pci_device_id}, "
            f"pci_domain_id={self.pci_domain_id}, L2_cache_size={self.L2_cache_size // _MIB}MB)"
        )


CudaDeviceProperties.__name__ = CudaDeviceProperties.__qualname__ = "_CudaDeviceProperties"


def properties(device_type: str) -> CudaDeviceProperties:
    """The properties of the device that stands for CUDA's."""
    return _made(device_type, figures(device_type).total())


@cache
def _made(device_type: str, total: int) -> CudaDeviceProperties:
    name = _name(device_type)
    return CudaDeviceProperties(
        name=name,
        major=_CAPABILITY[0],
        minor=_CAPABILITY[1],
        total_memory=total,
        multi_processor_count=_core_count(device_type),
        # The same in every process of this machine, as a GPU's is.
        uuid=DeviceUUID(uuid.uuid5(uuid.NAMESPACE_DNS, f"{platform.node()}/{name}")),
        is_integrated=1,
        clock_rate=_clock_rate_khz(),
        gcnArchName=name,
    )


def _name(device_type: str) -> str:
    """What the hardware really is; nobody should believe that it is an NVIDIA card."""
    if device_type == "mps":
        ask = getattr(torch.backends.mps, "get_name", None)
        return f"{ask() if ask else 'Apple GPU'} (MPS via torchdevice)"
    return f"{_processor_name()} ({device_type.upper()} via torchdevice)"


def _processor_name() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() in ("model name", "Model", "cpu model") and value.strip():
                    return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "CPU"


def _core_count(device_type: str) -> int:
    if device_type == "mps":
        ask = getattr(torch.backends.mps, "get_core_count", None)
        if ask is not None:
            return max(1, int(ask()))
    return psutil().cpu_count(logical=False) or os.cpu_count() or 1


def _clock_rate_khz() -> int:
    try:
        frequency = psutil().cpu_freq()
    except (OSError, NotImplementedError):
        return 0
    return int((frequency.max or frequency.current) * 1000) if frequency else 0

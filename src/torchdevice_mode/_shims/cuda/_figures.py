"""Memory figures of a target: what CUDA's allocator counts, from what the target has.

MPS counts its own allocations, and from torch 2.13 on keeps their peaks. Before it, a peak is
the highest value seen: at queries, synchronisations, and before and after each backward pass.

The CPU has no allocator statistics in torch, so there the figures are the process's, from the
moment this module was imported. "Allocated" is what malloc has handed out (glibc; elsewhere the
resident memory): tensors to the byte, with what else is allocated. "Reserved" is the resident
memory. Peaks between two resets come from the kernel's high-water mark, which a reset starts
anew: nothing that was touched is missed, and what malloc keeps for later counts with it. So they
are never too low by more than a few MiB, and too high where much is freed and allocated again,
above all by several threads. A query takes about 0.05 ms.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from typing import Any

import torch

__all__ = ["Figures", "figures", "note_level", "psutil"]


def psutil() -> Any:
    """The library psutil, imported when it is first asked: that is a quarter of enabling."""
    import psutil

    return psutil


class Figures(ABC):
    """Memory of one device: current values from the device, peaks between two resets.

    A peak that the device itself does not keep is the highest value seen at any query.

    Attributes:
        keeps_peaks: Whether the device, or the system, notices a peak between two queries.
        gained: Bytes that were allocated since they were last forgotten, as far as it was seen.
        lost: Bytes that were freed, likewise.
    """

    keeps_peaks = True

    def __init__(self) -> None:
        self._peak_allocated = 0
        self._peak_reserved = 0
        self._last = (0, 0)
        self.gained = [0, 0]
        self.lost = [0, 0]

    @abstractmethod
    def allocated(self) -> int:
        """Bytes in use by tensors."""

    @abstractmethod
    def reserved(self) -> int:
        """Bytes held from the system, at least those allocated."""

    @abstractmethod
    def total(self) -> int:
        """Bytes that the device has."""

    @abstractmethod
    def free(self) -> int:
        """Bytes that can still be had."""

    @abstractmethod
    def release(self) -> None:
        """Give back to the system what is held and not used."""

    def sample(self) -> tuple[int, int]:
        """Take the current values into the peaks, and return them."""
        allocated = self.allocated()
        reserved = max(self.reserved(), allocated)
        self._peak_allocated = max(self._peak_allocated, allocated)
        self._peak_reserved = max(self._peak_reserved, reserved)
        for which, change in enumerate((allocated - self._last[0], reserved - self._last[1])):
            (self.gained if change > 0 else self.lost)[which] += abs(change)
        self._last = (allocated, reserved)
        return allocated, reserved

    def peaks(self) -> tuple[int, int]:
        """The highest allocated and reserved since the last reset."""
        self.sample()
        return self._peak_allocated, self._peak_reserved

    def reset_peaks(self) -> None:
        """Begin a new period: peaks start from the current values."""
        self._peak_allocated = self._peak_reserved = 0
        self.sample()

    def forget_totals(self) -> None:
        """Count anew what was allocated and freed."""
        self.gained = [0, 0]
        self.lost = [0, 0]

    def statistics(self) -> dict[str, Any]:
        """What the device's own allocator counts, under CUDA's names, as far as it does."""
        return {}


# --- MPS ----------------------------------------------------------------------------------------


class _MpsFigures(Figures):
    def __init__(self) -> None:
        super().__init__()
        self.keeps_peaks = bool(self.statistics())

    def allocated(self) -> int:
        return int(torch.mps.current_allocated_memory())

    def reserved(self) -> int:
        return int(torch.mps.driver_allocated_memory())

    def total(self) -> int:
        recommended = getattr(torch.mps, "recommended_max_memory", None)
        return int(recommended()) if recommended else psutil().virtual_memory().total

    def free(self) -> int:
        # The memory is the machine's, so what other programs hold is not free.
        available = psutil().virtual_memory().available
        return max(0, min(self.total() - self.reserved(), available))

    def release(self) -> None:
        self.sample()
        torch.mps.empty_cache()

    def peaks(self) -> tuple[int, int]:
        allocated, reserved = super().peaks()
        counted = self.statistics()
        return (
            max(allocated, int(counted.get("allocated_bytes.all.peak", 0))),
            max(reserved, int(counted.get("reserved_bytes.all.peak", 0))),
        )

    def reset_peaks(self) -> None:
        # torch 2.13 keeps peaks for MPS; before it, only what was seen at queries counts.
        with contextlib.suppress(RuntimeError, AttributeError):
            torch.accelerator.reset_peak_memory_stats()
        super().reset_peaks()

    def forget_totals(self) -> None:
        with contextlib.suppress(RuntimeError, AttributeError):
            torch.accelerator.reset_accumulated_memory_stats()
        super().forget_totals()

    def statistics(self) -> dict[str, Any]:
        try:
            return dict(torch.accelerator.memory_stats())
        except (RuntimeError, AttributeError):
            return {}


# --- CPU ----------------------------------------------------------------------------------------


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd",
            "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


@cache
def _libc() -> ctypes.CDLL | None:
    """glibc, whose malloc can say how much it has handed out; None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL(None)
        libc.mallinfo2.restype = _Mallinfo2
        libc.malloc_trim.argtypes = [ctypes.c_size_t]
    except (OSError, AttributeError):
        return None
    return libc


_PROCESS = Path("/proc/self")
_GROUP = Path("/sys/fs/cgroup")
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def _resident() -> int:
    """Bytes of memory that the process holds now."""
    try:
        return int((_PROCESS / "statm").read_bytes().split()[1]) * _PAGE
    except OSError:
        return int(psutil().Process().memory_info().rss)


def _highest_resident() -> int:
    """Bytes that it held at most, since it started or since `_restart_highest`."""
    try:
        _, found, rest = (_PROCESS / "status").read_bytes().partition(b"VmHWM:")
        if found:
            return int(rest.split()[0]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return int(getattr(psutil().Process().memory_info(), "peak_wset", 0))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _restart_highest() -> None:
    """Let the kernel count the process's highest memory anew, where it allows that."""
    with contextlib.suppress(OSError):
        (_PROCESS / "clear_refs").write_text("5")


def _handed_out() -> int:
    """Bytes that the process has allocated."""
    libc = _libc()
    if libc is None:
        return _resident()
    info = libc.mallinfo2()
    return int(info.uordblks + info.hblkhd)


@cache
def _allocates_by_malloc() -> bool:
    """Whether torch takes the memory of tensors from malloc; builds for ARM may have their own."""
    if _libc() is None:
        return False
    size = 64 * 1024 * 1024
    before = _handed_out()
    held = torch.UntypedStorage(size)  # not touched, so this takes no memory and no time
    return _handed_out() - before >= size // 2 and held.nbytes() == size


# Taken now, since programs allocate before they first ask.
_HANDED_OUT_BEFORE = _handed_out()
_RESIDENT_BEFORE = _resident()
_HIGHEST_BEFORE = max(_RESIDENT_BEFORE, _highest_resident())


class _HostFigures(Figures):
    def __init__(self) -> None:
        super().__init__()
        self._allocated_at_reset = 0
        self._resident_at_reset = _HIGHEST_BEFORE

    def _begin(self) -> None:
        self._allocated_at_reset = self.allocated()
        _restart_highest()
        self._resident_at_reset = max(_resident(), _highest_resident())

    def allocated(self) -> int:
        if not _allocates_by_malloc():
            return self.reserved()
        return max(0, _handed_out() - _HANDED_OUT_BEFORE)

    def reserved(self) -> int:
        return max(0, _resident() - _RESIDENT_BEFORE)

    def total(self) -> int:
        return _limit(psutil().virtual_memory().total, "memory.max")

    def free(self) -> int:
        available = psutil().virtual_memory().available
        return max(0, min(available, self.total() - _in_use_in_group()))

    def release(self) -> None:
        self.sample()
        libc = _libc()
        if libc is not None:
            libc.malloc_trim(0)

    def peaks(self) -> tuple[int, int]:
        # The kernel knows how far the process grew between two queries of ours.
        grown = max(0, _highest_resident() - self._resident_at_reset)
        if grown:
            self._peak_allocated = max(self._peak_allocated, self._allocated_at_reset + grown)
            self._peak_reserved = max(
                self._peak_reserved, self._resident_at_reset + grown - _RESIDENT_BEFORE
            )
        allocated, reserved = super().peaks()
        return allocated, max(allocated, reserved)

    def reset_peaks(self) -> None:
        # Without unused memory in the process, growth from here on is growth of what is used.
        self.release()
        super().reset_peaks()
        self._begin()


def _limit(total: int, name: str) -> int:
    """The memory of the machine, or of the container that the process runs in."""
    limit = _read_group(name)
    return total if limit is None else min(total, limit)


def _in_use_in_group() -> int:
    return _read_group("memory.current") or 0 if _read_group("memory.max") is not None else 0


def _read_group(name: str) -> int | None:
    try:
        text = (_GROUP / name).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdigit() else None


class _CudaFigures(_HostFigures):
    """CUDA's own figures, for programs that ask for those of MPS."""

    def allocated(self) -> int:
        return int(torch.cuda.memory_allocated())

    def reserved(self) -> int:
        return int(torch.cuda.memory_reserved())

    def total(self) -> int:
        return int(torch.cuda.mem_get_info()[1])

    def free(self) -> int:
        return int(torch.cuda.mem_get_info()[0])

    def release(self) -> None:
        torch.cuda.empty_cache()


class _OtherFigures(_HostFigures):
    """An accelerator without known statistics: the accelerator API, else the process's figures."""

    def allocated(self) -> int:
        try:
            return int(torch.accelerator.memory_allocated())
        except (RuntimeError, AttributeError):
            return super().allocated()


@cache
def figures(device_type: str) -> Figures:
    """The figures of a device type; one object for the process."""
    if device_type == "mps":
        return _MpsFigures()
    if device_type == "cpu":
        return _HostFigures()
    if device_type == "cuda":
        return _CudaFigures()
    return _OtherFigures()


def note_level(device_type: str) -> None:
    """Take the current values into the peaks, if nothing else would notice them."""
    held = figures(device_type)
    if not held.keeps_peaks:
        held.sample()

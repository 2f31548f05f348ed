"""Memory: CUDA's statistics from the figures of the target (`_figures`)."""

from __future__ import annotations

import types
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ._figures import Figures, figures
from ._index import COUNT, checked_index, index_of, invalid_ordinal
from ._surface import Trace, emulated, mapped, plain, stubbed, target, unsupported

__all__: list[str] = []

_BREAK = Trace.BREAK


def _figures(device: Any) -> Figures:
    if not 0 <= index_of(device) < COUNT:
        raise invalid_ordinal()
    return figures(target().type)


@mapped(
    "memory_allocated", "the target's figure; on the CPU what malloc has handed out", trace=_BREAK
)
def memory_allocated(device: Any = None) -> int:
    return _figures(device).sample()[0]


@mapped("memory_reserved", "the target's figure; on the CPU what the process holds", trace=_BREAK)
def memory_reserved(device: Any = None) -> int:
    return _figures(device).sample()[1]


@mapped("max_memory_allocated", "the target's peak, else the highest seen", trace=_BREAK)
def max_memory_allocated(device: Any = None) -> int:
    return _figures(device).peaks()[0]


@mapped("max_memory_reserved", "the target's peak, else the highest seen", trace=_BREAK)
def max_memory_reserved(device: Any = None) -> int:
    return _figures(device).peaks()[1]


@mapped("memory_cached", "the old name of memory_reserved", trace=_BREAK)
def memory_cached(device: Any = None) -> int:
    return memory_reserved(device)


@mapped("max_memory_cached", "the old name of max_memory_reserved", trace=_BREAK)
def max_memory_cached(device: Any = None) -> int:
    return max_memory_reserved(device)


@mapped("reset_peak_memory_stats", "begins a new period for the peaks", trace=_BREAK)
def reset_peak_memory_stats(device: Any = None) -> None:
    _figures(device).reset_peaks()


def _reset_all_peaks(name: str, device: Any) -> None:
    warnings.warn(
        f"torch.cuda.{name} now calls torch.cuda.reset_peak_memory_stats, "
        "which resets /all/ peak memory stats.",
        FutureWarning,
        stacklevel=4,
    )
    reset_peak_memory_stats(device)


@mapped("reset_max_memory_allocated", "the old name of reset_peak_memory_stats", trace=_BREAK)
def reset_max_memory_allocated(device: Any = None) -> None:
    _reset_all_peaks("reset_max_memory_allocated", device)


@mapped("reset_max_memory_cached", "the old name of reset_peak_memory_stats", trace=_BREAK)
def reset_max_memory_cached(device: Any = None) -> None:
    _reset_all_peaks("reset_max_memory_cached", device)


@emulated(
    "reset_accumulated_memory_stats",
    "the target accumulates nothing that could be reset",
    trace=_BREAK,
)
def reset_accumulated_memory_stats(device: Any = None) -> None:
    _figures(device).sample()


@mapped("empty_cache", "the target gives unused memory back to the system", trace=_BREAK)
def empty_cache() -> None:
    _figures(None).release()


@mapped("mem_get_info", "free and total memory of the target", trace=_BREAK)
def mem_get_info(device: Any = None) -> tuple[int, int]:
    held = _figures(device)
    return held.free(), held.total()


# --- statistics ---------------------------------------------------------------------------------

_POOLED = (
    "active",
    "active_bytes",
    "allocated_bytes",
    "allocation",
    "inactive_split",
    "inactive_split_bytes",
    "requested_bytes",
    "reserved_bytes",
    "segment",
)
_UNPOOLED = ("oversize_allocations", "oversize_segments")
_COUNTERS = (
    "max_split_size",
    "num_alloc_retries",
    "num_device_alloc",
    "num_device_free",
    "num_ooms",
    "num_sync_all_streams",
)
_POOLS = ("all", "large_pool", "small_pool")
_METRICS = ("current", "peak", "allocated", "freed")
_BYTES_IN_USE = ("active_bytes", "allocated_bytes", "requested_bytes")


@emulated(
    "memory_stats", "CUDA's keys; 0 where the target counts nothing of the kind", trace=_BREAK
)
def memory_stats(device: Any = None) -> dict[str, Any]:
    held = _figures(device)
    stats: dict[str, Any] = dict.fromkeys(_COUNTERS, 0)
    stats["max_split_size"] = -1
    for name in _UNPOOLED:
        stats.update({f"{name}.{metric}": 0 for metric in _METRICS})
    for name in _POOLED:
        stats.update({f"{name}.{pool}.{metric}": 0 for pool in _POOLS for metric in _METRICS})
    stats.update({key: value for key, value in held.statistics().items() if key in stats})
    allocated, reserved = held.sample()
    peak_allocated, peak_reserved = held.peaks()
    for name in _BYTES_IN_USE:
        _fill(stats, name, allocated, peak_allocated)
    _fill(stats, "reserved_bytes", reserved, peak_reserved)
    return OrderedDict(sorted(stats.items()))


def _fill(stats: dict[str, Any], name: str, current: int, peak: int) -> None:
    """All sizes are one pool here: report them under "all" and under the large pool."""
    for pool in ("all", "large_pool"):
        stats[f"{name}.{pool}.current"] = current
        stats[f"{name}.{pool}.peak"] = max(peak, current)
        # CUDA has: what was ever allocated is what was freed plus what is there.
        freed = stats[f"{name}.{pool}.freed"]
        stats[f"{name}.{pool}.allocated"] = max(
            stats[f"{name}.{pool}.allocated"], peak, current + freed
        )
        stats[f"{name}.{pool}.freed"] = stats[f"{name}.{pool}.allocated"] - current


@emulated("memory_stats_as_nested_dict", "as memory_stats", trace=_BREAK)
def memory_stats_as_nested_dict(device: Any = None) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in memory_stats(device).items():
        *path, last = key.split(".")
        level = nested
        for part in path:
            level = level.setdefault(part, {})
        level[last] = value
    return nested


def _with_globals(function: types.FunctionType, **names: Any) -> Any:
    """torch's own function, calling ours by these names."""
    return types.FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )


_plain_summary = _with_globals(
    plain("memory_summary"), memory_stats=memory_stats, _get_device_index=lambda d, **_: index_of(d)
)


@emulated("memory_summary", "torch's own layout over the emulated statistics", trace=_BREAK)
def memory_summary(device: Any = None, abbreviated: bool = False) -> str:
    return str(_plain_summary(device, abbreviated))


@emulated("memory_snapshot", "the target lists no segments", trace=_BREAK)
def memory_snapshot(mempool_id: Any = None, include_traces: bool = True) -> list[dict[str, Any]]:
    return []


@emulated("list_gpu_processes", "this process is the one that is known", trace=_BREAK)
def list_gpu_processes(device: Any = None) -> str:
    import os

    used = _figures(device).sample()[1] / (1024 * 1024)
    return (
        f"GPU:{checked_index(device)}\nprocess {os.getpid():>10d} uses {used:>12.3f} MB GPU memory"
    )


_HOST_STATS = ("active_bytes", "active_requests", "allocated_bytes", "allocations")


@emulated("host_memory_stats", "nothing is pinned, so all is 0", trace=_BREAK)
def host_memory_stats() -> dict[str, Any]:
    stats = {f"{name}.{metric}": 0 for name in _HOST_STATS for metric in _METRICS}
    for timer in ("host_alloc_time", "host_free_time"):
        stats.update({f"{timer}.{part}": 0 for part in ("total", "max", "min", "count", "avg")})
    stats.update(num_host_alloc=0, num_host_free=0)
    return OrderedDict(sorted(stats.items()))


@stubbed("reset_accumulated_host_memory_stats", "nothing is pinned")
def reset_accumulated_host_memory_stats() -> None:
    return None


@stubbed("reset_peak_host_memory_stats", "nothing is pinned")
def reset_peak_host_memory_stats() -> None:
    return None


# --- limits and allocators ----------------------------------------------------------------------

_fraction = 1.0


@mapped("set_per_process_memory_fraction", "set on the target where it has a limit", trace=_BREAK)
def set_per_process_memory_fraction(fraction: float, device: Any = None) -> None:
    global _fraction
    _figures(device)
    if not isinstance(fraction, float):
        raise TypeError("Invalid type for fraction argument, must be `float`")
    if fraction < 0 or fraction > 1:
        raise ValueError(f"Invalid fraction value: {fraction}. Allowed range: 0~1")
    limit = getattr(getattr(torch, target().type, None), "set_per_process_memory_fraction", None)
    if limit is not None:
        limit(fraction)
    _fraction = fraction


@mapped("get_per_process_memory_fraction", "what was set", trace=_BREAK)
def get_per_process_memory_fraction(device: Any = None) -> float:
    _figures(device)
    return _fraction


@emulated("get_allocator_backend", "CUDA's default name; programs compare it", trace=_BREAK)
def get_allocator_backend() -> str:
    return "native"


@stubbed("caching_allocator_enable", "the target's allocator has no such switch")
def caching_allocator_enable(value: bool = True) -> None:
    return None


@emulated("caching_allocator_disabled", "the target's allocator has no such switch", trace=_BREAK)
@contextmanager
def caching_allocator_disabled() -> Iterator[None]:
    yield


@stubbed("memory._record_memory_history", "the target keeps no history")
def _record_memory_history(*args: Any, **kwargs: Any) -> None:
    return None


@stubbed("memory._set_allocator_settings", "CUDA's settings have no meaning for the target")
def _set_allocator_settings(env: str) -> None:
    return None


@emulated("_use_uvm", "nothing is managed by the CUDA driver", trace=_BREAK)
@contextmanager
def _use_uvm(device: Any = None) -> Iterator[None]:
    yield


@emulated("use_mem_pool", "allocations stay in the target's one pool", trace=_BREAK)
@contextmanager
def use_mem_pool(pool: Any, device: Any = None) -> Iterator[None]:
    yield


unsupported(
    "caching_allocator_alloc",
    "caching_allocator_delete",
    reason="it hands out raw CUDA memory",
    instead="allocate a tensor with torch.empty(..., dtype=torch.uint8)",
)
unsupported(
    "CUDAPluggableAllocator",
    "change_current_allocator",
    reason="the target's allocator cannot be replaced",
    instead="leave the allocator as it is on this machine",
)
unsupported(
    "MemPool",
    reason="the target's allocator has one pool",
    instead="allocate without a pool on this machine",
)
unsupported(
    "memory._snapshot",
    "memory._dump_snapshot",
    "memory._save_segment_usage",
    "memory._save_memory_usage",
    reason="the target's allocator keeps no history to write down",
    instead="use torch.profiler with profile_memory=True",
)

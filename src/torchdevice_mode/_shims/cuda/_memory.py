"""Memory: CUDA's statistics from the figures of the target (`_figures`).

Limits, pools and snapshots are in `_allocator`.
"""

from __future__ import annotations

import types
import warnings
from collections import OrderedDict
from typing import Any

from ... import _out_of_memory
from ._figures import Figures, figures
from ._index import exchange, exists, index_of, visible_index
from ._surface import Trace, emulated, mapped, plain, stubbed, target

__all__ = ["with_globals"]

_BREAK = Trace.BREAK


def _held(device: Any) -> Figures:
    """The figures of a device argument.

    Raises:
        RuntimeError: If there is no such device, in the words of CUDA's allocator.
    """
    index = index_of(device)
    if not exists(index):
        raise RuntimeError(f"Invalid device argument {index}: did you call init?")
    return figures(target().type)


@mapped(
    "memory_allocated", "the target's figure; on the CPU what malloc has handed out", trace=_BREAK
)
def memory_allocated(device: Any = None) -> int:
    return _held(device).sample()[0]


@mapped("memory_reserved", "the target's figure; on the CPU what the process holds", trace=_BREAK)
def memory_reserved(device: Any = None) -> int:
    return _held(device).sample()[1]


@mapped("max_memory_allocated", "the target's peak, else the highest seen", trace=_BREAK)
def max_memory_allocated(device: Any = None) -> int:
    return _held(device).peaks()[0]


@mapped("max_memory_reserved", "the target's peak, else the highest seen", trace=_BREAK)
def max_memory_reserved(device: Any = None) -> int:
    return _held(device).peaks()[1]


def _renamed(old: str, new: str) -> None:
    warnings.warn(
        f"`torch.cuda.{old}` has been renamed to `torch.cuda.{new}`", FutureWarning, stacklevel=4
    )


@mapped("memory_cached", "the old name of memory_reserved", trace=_BREAK)
def memory_cached(device: Any = None) -> int:
    _renamed("memory_cached", "memory_reserved")
    return memory_reserved(device)


@mapped("max_memory_cached", "the old name of max_memory_reserved", trace=_BREAK)
def max_memory_cached(device: Any = None) -> int:
    _renamed("max_memory_cached", "max_memory_reserved")
    return max_memory_reserved(device)


@mapped("reset_peak_memory_stats", "begins a new period for the peaks", trace=_BREAK)
def reset_peak_memory_stats(device: Any = None) -> None:
    _held(device).reset_peaks()


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


@mapped("reset_accumulated_memory_stats", "begins to count anew", trace=_BREAK)
def reset_accumulated_memory_stats(device: Any = None) -> None:
    _held(device).forget_totals()
    _out_of_memory.forget_count()


@mapped("empty_cache", "the target gives unused memory back to the system", trace=_BREAK)
def empty_cache() -> None:
    _held(None).release()


@mapped("mem_get_info", "free and total memory of the target", trace=_BREAK)
def mem_get_info(device: Any = None) -> tuple[int, int]:
    exchange(index_of(device))
    held = figures(target().type)
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
    "num_oom_rejections",
    "num_ooms",
    "num_sync_all_streams",
)
_POOLS = ("all", "large_pool", "small_pool")
_METRICS = ("current", "peak", "allocated", "freed")
# What is known of every target: 0 stands for what is allocated, 1 for what is reserved.
_SAMPLED = {"active_bytes": 0, "allocated_bytes": 0, "requested_bytes": 0, "reserved_bytes": 1}


@emulated(
    "memory_stats", "CUDA's keys; 0 where the target counts nothing of the kind", trace=_BREAK
)
def memory_stats(device: Any = None) -> dict[str, Any]:
    held = _held(device)
    stats: dict[str, Any] = dict.fromkeys(_COUNTERS, 0)
    stats["max_split_size"] = -1
    for name in _UNPOOLED:
        stats.update({f"{name}.{metric}": 0 for metric in _METRICS})
    for name in _POOLED:
        stats.update({f"{name}.{pool}.{metric}": 0 for pool in _POOLS for metric in _METRICS})
    counted = held.statistics()
    stats.update({key: value for key, value in counted.items() if key in stats})
    stats["num_ooms"] = _out_of_memory.count()
    # The peaks first, because they take the current values in.
    peaks, current = held.peaks(), held.sample()
    for name, which in _SAMPLED.items():
        totals = held.gained[which], held.lost[which]
        if counted.get(f"{name}.all.allocated"):
            totals = counted[f"{name}.all.allocated"], counted[f"{name}.all.freed"]
        # What peaked between two queries was allocated and freed, too.
        missed = max(0, peaks[which] - totals[0]) if held.keeps_peaks else 0
        values = current[which], peaks[which], totals[0] + missed, totals[1] + missed
        # All sizes are one pool here: "all" and the large one.
        for pool in ("all", "large_pool"):
            stats.update(
                {f"{name}.{pool}.{metric}": v for metric, v in zip(_METRICS, values, strict=True)}
            )
    return OrderedDict(sorted(stats.items()))


@emulated("memory_stats_as_nested_dict", "as memory_stats", trace=_BREAK)
def memory_stats_as_nested_dict(device: Any = None) -> dict[str, Any]:
    return {**_nested(memory_stats(device)), "reserved_bytes_by_private_pools": {}}


def _nested(stats: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in stats.items():
        *path, last = key.split(".")
        level = nested
        for part in path:
            level = level.setdefault(part, {})
        level[last] = value
    return nested


def with_globals(function: types.FunctionType, **names: Any) -> Any:
    """torch's own function, calling ours by these names."""
    return types.FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )


_plain_summary = with_globals(
    plain("memory_summary"), memory_stats=memory_stats, _get_device_index=lambda d, **_: index_of(d)
)


@emulated("memory_summary", "torch's own layout over the emulated statistics", trace=_BREAK)
def memory_summary(device: Any = None, abbreviated: bool = False) -> str:
    return str(_plain_summary(device, abbreviated))


@emulated("list_gpu_processes", "this process is the one that is known", trace=_BREAK)
def list_gpu_processes(device: Any = None) -> str:
    import os

    index = visible_index(device)
    used = figures(target().type).sample()[1] / (1024 * 1024)
    return f"GPU:{index}\nprocess {os.getpid():>10d} uses {used:>12.3f} MB GPU memory"


_HOST_STATS = ("active_bytes", "active_requests", "allocated_bytes", "allocations")


@emulated("host_memory_stats", "nothing is pinned, so all is 0", trace=_BREAK)
def host_memory_stats() -> dict[str, Any]:
    stats = {f"{name}.{metric}": 0 for name in _HOST_STATS for metric in _METRICS}
    for timer in ("host_alloc_time", "host_free_time"):
        stats.update({f"{timer}.{part}": 0 for part in ("total", "max", "min", "count", "avg")})
    stats.update(num_host_alloc=0, num_host_free=0)
    return OrderedDict(sorted(stats.items()))


@emulated("host_memory_stats_as_nested_dict", "as host_memory_stats", trace=_BREAK)
def host_memory_stats_as_nested_dict() -> dict[str, Any]:
    return _nested(host_memory_stats())


@stubbed("reset_accumulated_host_memory_stats", "nothing is pinned")
def reset_accumulated_host_memory_stats() -> None:
    return None


@stubbed("reset_peak_host_memory_stats", "nothing is pinned")
def reset_peak_host_memory_stats() -> None:
    return None

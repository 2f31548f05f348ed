"""Profiling marks and communication: what tools and launchers reach for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ._surface import emulated, stubbed, unsupported

__all__: list[str] = []


# --- nvtx: marks for NVIDIA's profiler ----------------------------------------------------------

_depth = 0
_handles = itertools.count(1)


@stubbed("nvtx.range_push", "there is no NVIDIA profiler to see the mark")
def range_push(msg: str) -> int:
    global _depth
    _depth += 1
    return _depth - 1


@stubbed("nvtx.range_pop", "there is no NVIDIA profiler to see the mark")
def range_pop() -> int:
    global _depth
    _depth = max(0, _depth - 1)
    return _depth


@stubbed("nvtx.range_start", "there is no NVIDIA profiler to see the mark")
def range_start(msg: str) -> int:
    return next(_handles)


@stubbed("nvtx.range_end", "there is no NVIDIA profiler to see the mark")
def range_end(range_id: int) -> None:
    return None


@stubbed("nvtx._device_range_start", "there is no NVIDIA profiler to see the mark")
def _device_range_start(msg: str, stream: int = 0) -> object:
    return next(_handles)


@stubbed("nvtx._device_range_end", "there is no NVIDIA profiler to see the mark")
def _device_range_end(range_handle: object, stream: int = 0) -> None:
    return None


@stubbed("nvtx.mark", "there is no NVIDIA profiler to see the mark")
def mark(msg: str) -> int:
    return 0


@stubbed("nvtx.range", "there is no NVIDIA profiler to see the mark")
@contextmanager
def range(msg: str, *args: Any, **kwargs: Any) -> Iterator[None]:
    yield


# --- profiler -----------------------------------------------------------------------------------


@stubbed("profiler.start", "there is no NVIDIA profiler to start")
def start() -> None:
    return None


@stubbed("profiler.stop", "there is no NVIDIA profiler to stop")
def stop() -> None:
    return None


@stubbed("profiler.profile", "there is no NVIDIA profiler to start")
@contextmanager
def profile() -> Iterator[None]:
    yield


# --- several devices ----------------------------------------------------------------------------


@emulated("nccl.is_available", "there is one device, so nothing to communicate with")
def nccl_is_available(tensors: Any) -> bool:
    return False


@emulated("nccl.version", "no NCCL, so the lowest version")
def nccl_version() -> tuple[int, int, int]:
    return (0, 0, 0)


unsupported(
    "nccl.unique_id",
    "nccl.init_rank",
    "nccl.all_reduce",
    "nccl.reduce",
    "nccl.broadcast",
    "nccl.all_gather",
    "nccl.reduce_scatter",
    reason="NCCL talks to NVIDIA devices only",
    instead="use torch.distributed with the gloo backend",
)
unsupported(
    "gds.GdsFile",
    "gds.gds_register_buffer",
    "gds.gds_deregister_buffer",
    reason="GPUDirect Storage moves files to NVIDIA devices",
    instead="read the file with numpy.fromfile or torch.load",
)

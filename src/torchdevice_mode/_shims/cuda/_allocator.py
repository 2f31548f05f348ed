"""The allocator: limits, pools, raw allocations, and what it holds.

The target's allocator has one pool, which cannot be replaced. Programs that make pools run right
without them, so pools are names; what would run other code is refused.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..._log import warn_once
from ._figures import figures
from ._index import count, exchange, exists, index_of
from ._memory import with_globals
from ._surface import (
    StandIn,
    Trace,
    emulated,
    mapped,
    plain,
    redirection,
    stubbed,
    target,
    unsupported,
)

__all__ = ["MemPool"]

_BREAK = Trace.BREAK

# --- limits -------------------------------------------------------------------------------------

_fraction = 1.0
# 0 takes the limit away on MPS, and leaves nothing on CUDA.
_SMALLEST_FRACTION = 1e-9


def _allocator_index(device: Any) -> int:
    index = 0 if device is None else index_of(device, optional=False)
    if not exists(index):
        raise RuntimeError(f"Allocator not initialized for device {index}: did you call init?")
    return index


@mapped("set_per_process_memory_fraction", "set on the target where it has a limit", trace=_BREAK)
def set_per_process_memory_fraction(fraction: float, device: Any = None) -> None:
    global _fraction
    if device is not None:
        index_of(device, optional=False)
    if not isinstance(fraction, float):
        raise TypeError("Invalid type for fraction argument, must be `float`")
    if fraction < 0 or fraction > 1:
        raise ValueError(f"Invalid fraction value: {fraction}. Allowed range: 0~1")
    _allocator_index(device)
    limit = getattr(getattr(torch, target().type, None), "set_per_process_memory_fraction", None)
    if limit is not None:
        limit(max(fraction, _SMALLEST_FRACTION))
    elif fraction < 1:
        warn_once(
            "memory-fraction",
            f"set_per_process_memory_fraction({fraction}) limits nothing, because torch does not "
            f"limit the memory of {target().type}: limit the process from outside.",
        )
    _fraction = fraction


@mapped("get_per_process_memory_fraction", "what was set", trace=_BREAK)
def get_per_process_memory_fraction(device: Any = None) -> float:
    _allocator_index(device)
    return _fraction


@emulated("get_allocator_backend", "CUDA's default name; programs compare it", trace=_BREAK)
def get_allocator_backend() -> str:
    return "native"


@stubbed("caching_allocator_enable", "the target's allocator has no such switch")
def caching_allocator_enable(value: bool = True) -> None:
    return None


if plain("caching_allocator_disabled") is not None:

    @emulated(
        "caching_allocator_disabled", "the target's allocator has no such switch", trace=_BREAK
    )
    @contextmanager
    def caching_allocator_disabled() -> Iterator[None]:
        yield


@stubbed("memory._set_allocator_settings", "CUDA's settings have no meaning for the target")
def _set_allocator_settings(env: str) -> None:
    return None


# --- raw allocations ----------------------------------------------------------------------------

_raw: dict[int, torch.Tensor] = {}


@emulated("caching_allocator_alloc", "the memory of a tensor, held until deleted", trace=_BREAK)
def caching_allocator_alloc(size: int, device: Any = None, stream: Any = None) -> int:
    index = 0 if device is None else index_of(device, optional=False)
    if not isinstance(stream, (int, type(None), torch.Stream)):
        raise TypeError(
            "Invalid type for stream argument, must be `torch.cuda.Stream` or `int` representing "
            "a pointer to an existing stream"
        )
    exchange(index)
    if size <= 0:
        return 0  # a null pointer, which may be deleted
    held = torch.empty(size, dtype=torch.uint8, device=target())
    pointer = held.data_ptr()
    _raw[pointer] = held
    return pointer


@emulated("caching_allocator_delete", "gives back what was held", trace=_BREAK)
def caching_allocator_delete(mem_ptr: int) -> None:
    if mem_ptr and _raw.pop(mem_ptr, None) is None:
        raise RuntimeError(f"invalid device pointer: {mem_ptr:#x}")


unsupported(
    "CUDAPluggableAllocator",
    "change_current_allocator",
    reason="the target's allocator cannot be replaced",
    instead="leave the allocator as it is on this machine",
)


# --- pools --------------------------------------------------------------------------------------

_PlainMemPool = plain("MemPool")
_pool_numbers = itertools.count(1)


@emulated("MemPool", "a name: allocations stay in the target's one pool")
class MemPool(metaclass=StandIn):
    """`torch.cuda.MemPool` on a target that has one pool."""

    _original = _PlainMemPool

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if redirection() is None:
            return _PlainMemPool(*args, **kwargs)
        return object.__new__(cls)

    def __init__(
        self, allocator: Any = None, use_on_oom: bool = False, no_split: bool = False
    ) -> None:
        self._allocator = allocator
        self._id = (0, next(_pool_numbers))
        self._uses = 1

    @property
    def id(self) -> tuple[int, int]:
        """The pool's number, as CUDA gives to those that users make."""
        return self._id

    @property
    def allocator(self) -> Any:
        """What was given."""
        return self._allocator

    @property
    def device(self) -> int:
        """The index of the device."""
        return 0

    def use_count(self) -> int:
        """One, and one for each `use_mem_pool` block that is open."""
        return self._uses

    def snapshot(self, include_traces: bool = True) -> list[dict[str, Any]]:
        """What lies in the pool: nothing, since allocations stay where they were."""
        return memory_snapshot(self.id, include_traces)


MemPool.__module__ = "torch.cuda.memory"


@emulated("use_mem_pool", "allocations stay in the target's one pool", trace=_BREAK)
@contextmanager
def use_mem_pool(pool: Any, device: Any = None) -> Iterator[None]:
    exchange(0 if device is None else index_of(device, optional=False))
    pool.id  # noqa: B018 - what is no pool is refused as CUDA does
    if isinstance(pool, MemPool):
        pool._uses += 1
    try:
        yield
    finally:
        if isinstance(pool, MemPool):
            pool._uses -= 1


if plain("_use_uvm") is not None:

    @emulated("_use_uvm", "the target's memory needs no CUDA driver to manage it", trace=_BREAK)
    @contextmanager
    def _use_uvm(device: Any = None) -> Iterator[MemPool]:
        pool = MemPool()
        with use_mem_pool(pool, device):
            yield pool


if plain("memory._free_mutex") is not None:

    @emulated("memory._free_mutex", "the target's allocator has its own lock", trace=_BREAK)
    @contextmanager
    def _free_mutex() -> Iterator[None]:
        yield


# --- what it holds ------------------------------------------------------------------------------

# Sizes from which CUDA's allocator takes a block from its large pool.
_LARGE = 1 << 20
_OWNED_BY_NOBODY = (0, 0)


@emulated("memory_snapshot", "the storages that Python can see, and the rest as one", trace=_BREAK)
def memory_snapshot(mempool_id: Any = None, include_traces: bool = True) -> list[dict[str, Any]]:
    if mempool_id is not None and tuple(mempool_id) != _OWNED_BY_NOBODY:
        return []
    allocated, reserved = figures(target().type).sample()
    sizes = _live_storages(target().type)
    segments = [_segment(address, size, size) for address, size in sorted(sizes.items())]
    seen = sum(sizes.values())
    rest, held = max(0, allocated - seen), max(0, reserved - seen)
    if held > 0:
        segments.append(_segment(0, held, min(rest, held)))
    return segments


def _live_storages(device_type: str) -> dict[int, int]:
    """Address and size of the memory of all tensors that Python can see, on a type of device."""
    found: dict[int, int] = {}
    with torch._C.DisableTorchFunction():
        for thing in gc.get_objects():
            if not issubclass(type(thing), torch.Tensor):
                continue
            for tensor in (thing, thing.grad if thing.is_leaf else None):
                if tensor is None or tensor.device.type != device_type:
                    continue
                try:
                    storage = tensor.untyped_storage()
                    if storage.nbytes():
                        found[storage.data_ptr()] = storage.nbytes()
                except (RuntimeError, NotImplementedError):
                    continue  # sparse, functional and fake tensors have no storage of their own
    return found


def _segment(address: int, size: int, allocated: int) -> dict[str, Any]:
    """A segment with what is allocated of it, and what is not, as CUDA's allocator writes it."""
    common: dict[str, Any] = {"frames": [], "forward_frames": []}
    blocks = []
    if allocated:
        blocks.append(
            {"address": address, "size": allocated, "requested_size": allocated,
             "state": "active_allocated", **common}
        )  # fmt: skip
    if size > allocated:
        blocks.append(
            {"address": address + allocated, "size": size - allocated, "requested_size": 0,
             "state": "inactive", **common}
        )  # fmt: skip
    return {
        "device": 0,
        "address": address,
        "total_size": size,
        "allocated_size": allocated,
        "active_size": allocated,
        "requested_size": allocated,
        "stream": 0,
        "segment_type": "large" if size >= _LARGE else "small",
        "segment_pool_id": _OWNED_BY_NOBODY,
        "is_expandable": False,
        "frames": [],
        "blocks": blocks,
    }


@emulated("memory._snapshot", "what is held now; the target keeps no history", trace=_BREAK)
def _snapshot(device: Any = None, augment_with_fx_traces: bool = False) -> dict[str, Any]:
    return {
        "segments": memory_snapshot(),
        "device_traces": [[] for _ in range(count())],
        "allocator_settings": {
            "PYTORCH_CUDA_ALLOC_CONF": "",
            "max_split_size": -1,
            "garbage_collection_threshold": 0.0,
            "expandable_segments": False,
        },
        "external_annotations": [],
    }


for _name in ("_dump_snapshot", "_save_segment_usage", "_save_memory_usage"):
    emulated(f"memory.{_name}", "torch's own, over the emulated snapshot", trace=_BREAK)(
        with_globals(plain(f"memory.{_name}"), _snapshot=_snapshot)
    )


@stubbed("memory._record_memory_history", "the target keeps no history")
def _record_memory_history(enabled: Any = "all", *args: Any, **kwargs: Any) -> None:
    if not isinstance(enabled, bool) and enabled not in (None, "state", "all"):
        raise RuntimeError("expected state to be 'state', 'all', or None")


# torch takes an older form as well, and says so with a signature of the newer one.
setattr(
    _record_memory_history,
    "__signature__",
    getattr(plain("memory._record_memory_history"), "__signature__", None),
)


if plain("memory._allocation_traceback") is not None:

    @emulated("memory._allocation_traceback", "the target keeps no history", trace=_BREAK)
    def _allocation_traceback(data_ptr: int) -> list[dict[str, Any]] | None:
        return None


_metadata = ""


@emulated("memory._set_memory_metadata", "remembered", trace=_BREAK)
def _set_memory_metadata(metadata: str) -> None:
    global _metadata
    _metadata = metadata


@emulated("memory._get_memory_metadata", "what was set", trace=_BREAK)
def _get_memory_metadata() -> str:
    return _metadata

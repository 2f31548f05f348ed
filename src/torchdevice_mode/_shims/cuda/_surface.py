"""The table of torch.cuda, and its decorators by their short names."""

from __future__ import annotations

import torch.cuda.comm  # noqa: F401 - rows look up what it has

from .._surface import Row, StandIn, State, Surface, Trace, end_graph

__all__ = [
    "CUDA",
    "Row",
    "StandIn",
    "State",
    "Trace",
    "context",
    "emulated",
    "end_graph",
    "mapped",
    "native",
    "plain",
    "redirection",
    "refusal",
    "stubbed",
    "target",
    "unsupported",
]

# What few programs use; torch, or the import above, has imported it by now.
_LATER = {
    "comm": "_comm",
    "tunable": "_tunable",
    "nvtx": "_tools",
    "profiler": "_tools",
    "nccl": "_tools",
    "jiterator": "_kernels",
    "_compile_kernel": "_kernels",
    "gds": "_tools",
    "sparse": "_tensor_types",
    "graphs": "_graphs",
    **dict.fromkeys(("CUDAGraph", "graph", "graph_pool_handle"), "_graphs"),
    "make_graphed_callables": "_graphs",
}

_DTYPES = ("BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short")
_TENSOR_TYPES = (
    *(f"{name}Tensor" for name in _DTYPES),
    *(f"{name}Storage" for name in (*_DTYPES, "ComplexDouble", "ComplexFloat")),
)

_ALLOCATOR = (
    "CUDAPluggableAllocator",
    "MemPool",
    "_use_uvm",
    "caching_allocator_alloc",
    "caching_allocator_delete",
    "caching_allocator_disabled",
    "caching_allocator_enable",
    "change_current_allocator",
    "get_allocator_backend",
    "get_per_process_memory_fraction",
    "memory._allocation_traceback",
    "memory._dump_snapshot",
    "memory._free_mutex",
    "memory._get_memory_metadata",
    "memory._record_memory_history",
    "memory._save_memory_usage",
    "memory._save_segment_usage",
    "memory._set_allocator_settings",
    "memory._set_memory_metadata",
    "memory._snapshot",
    "memory_snapshot",
    "set_per_process_memory_fraction",
    "use_mem_pool",
)

CUDA = Surface(
    "torch.cuda",
    "cuda",
    added=frozenset({"_get_device_properties"}),
    later={
        **{path: f"{__package__}.{file}" for path, file in _LATER.items()},
        **dict.fromkeys(_ALLOCATOR, f"{__package__}._allocator"),
        **dict.fromkeys(_TENSOR_TYPES, f"{__package__}._tensor_types"),
    },
)

context = CUDA.context
emulated = CUDA.emulated
mapped = CUDA.mapped
native = CUDA.native
plain = CUDA.plain
redirection = CUDA.redirection
refusal = CUDA.refusal
stubbed = CUDA.stubbed
target = CUDA.target
unsupported = CUDA.unsupported

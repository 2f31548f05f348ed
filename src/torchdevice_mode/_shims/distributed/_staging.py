"""Collectives on tensors that gloo cannot read: copied to the CPU, and what was written back.

Every collective of torch, in Python, in DDP's reducer and in compiled graphs, is an operator of
the library `c10d`, chosen by the device of its tensors. For the target's key torch has none of
them. A kernel is registered for each: it calls the same operator on copies on the CPU, where the
group's gloo does the work. So groups and what torch hands out for work in progress are torch's own.

What is asked to run meanwhile (`async_op=True`) is copied back when gloo has done it.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
import torch.distributed as dist
from torch.utils import _pytree as pytree

from ..._active import current
from ..._dtypes import bytes_of
from ..._fallback import lacking
from ..._origins import origin
from ._backend import dispatch_key
from ._work import Receiving, with_future

__all__ = ["install", "remove"]

_LIBRARY = "c10d"
_libraries: dict[str, torch.library.Library] = {}
_lock = threading.Lock()

# What an operator does with its first argument; the others it only reads. Of the rest of the
# library nothing takes tensors of the target.
_FILLS = frozenset(
    {
        "_allgather_base_",
        "_reduce_scatter_base_",
        "allgather_",
        "allgather_coalesced_",
        "allgather_into_tensor_coalesced_",
        "alltoall_",
        "alltoall_base_",
        "gather_",
        "recv_",
        "recv_any_source_",
        "reduce_scatter_",
        "reduce_scatter_tensor_coalesced_",
        "scatter_",
    }
)
_CHANGES = frozenset({"allreduce_", "allreduce_coalesced_", "broadcast_", "reduce_"})
_READS = frozenset({"barrier", "send"})
_RECEIVES = frozenset({"recv_", "recv_any_source_"})


def install(target: str) -> None:
    """Register a kernel for each collective that torch, or a backend, has none for.

    Args:
        target: The type of device. Does nothing where it was done before.
    """
    key = dispatch_key(target)
    with _lock:
        if key in _libraries:
            return
        library = _libraries[key] = torch.library.Library(_LIBRARY, "IMPL")
        for at, on_cpu in ((key, "CPU"), (f"Sparse{key}", "SparseCPU")):
            for name in lacking(at, on_cpu):
                namespace, _, operator = name.partition("::")
                if namespace == _LIBRARY and operator in _FILLS | _CHANGES | _READS:
                    library.impl(operator, _kernel(getattr(torch.ops.c10d, operator).default), at)


def remove() -> None:
    """Take all kernels back."""
    with _lock:
        for library in _libraries.values():
            library._destroy()
        _libraries.clear()


# --- one call -----------------------------------------------------------------------------------


def _kernel(operator: Any) -> Callable[..., Any]:
    name = operator._schema.name.partition("::")[2]
    parameters = operator._schema.arguments
    names = [parameter.name for parameter in parameters]
    returns_tensors = len(operator._schema.returns) > 1

    def run(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        given = dict(zip(names, args, strict=False)) | kwargs
        # Past modes, which would redirect the CPU; the collective is no part of a graph.
        with torch._C.DisableTorchFunction(), torch.no_grad():
            staged = _Staged(name, given)
            result = operator(**staged.arguments(given))
            work: Any = dist.Work.unbox(result[-1] if returns_tensors else result)
            if name in _RECEIVES:
                work = Receiving(work, staged.write_back)
            elif staged.written and not given.get("async_op", True):
                work.wait()
                staged.write_back()
            elif staged.written:
                work = with_future(work, staged.results)
        _note(name, staged.moved, time.perf_counter() - began)
        boxed = work.boxed()
        return (given[names[0]], boxed) if returns_tensors else boxed

    return run


class _Staged:
    """The tensors of one call, and their copies.

    Args:
        name: The operator.
        given: Its arguments by name.
    """

    def __init__(self, name: str, given: dict[str, Any]) -> None:
        self.moved = 0
        self.written: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._first = next(iter(given))
        self._writes = name not in _READS
        self._fills = name in _FILLS
        self._inference = torch.is_inference_mode_enabled()
        if name in ("broadcast_", "reduce_"):
            group = dist.ProcessGroup.unbox(given["process_group"])
            is_root = group.rank() == given["root_rank"]
            # The root of a broadcast is not written, and of a reduction nobody else.
            self._writes = is_root == (name == "reduce_")
            self._fills = name == "broadcast_" and not is_root

    def arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments for the CPU."""
        return {name: self._copied(value, name == self._first) for name, value in given.items()}

    def _copied(self, value: Any, first: bool) -> Any:
        if isinstance(value, torch.Tensor):
            if first and self._fills and value.layout is torch.strided:
                copy = torch.empty_like(value, device="cpu")
            else:
                copy = value.detach().to("cpu")
                self.moved += bytes_of(value)
            if first and self._writes:
                self.written.append((value, copy))
            return copy
        if isinstance(value, (list, tuple)) and pytree.tree_any(_is_tensor, value):
            return [self._copied(item, first) for item in value]
        return value

    def write_back(self) -> None:
        """Bring the results to the program's tensors."""
        with ExitStack() as modes:
            modes.enter_context(torch._C.DisableTorchFunction())
            modes.enter_context(torch.inference_mode(self._inference))
            modes.enter_context(torch.no_grad())
            for tensor, copy in self.written:
                # `data` has a version of its own: as on CUDA, autograd takes no notice.
                (tensor.data if tensor.layout is torch.strided else tensor).copy_(copy)
                self.moved += bytes_of(copy)

    def results(self) -> list[torch.Tensor]:
        """Bring the results back, and give the tensors as the program holds them."""
        self.write_back()
        return [tensor for tensor, _ in self.written]


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _note(name: str, moved: int, seconds: float) -> None:
    """Count the call at the user's line: it costs copies."""
    context = current()
    if context is not None:
        reason = f"no backend of torch.distributed serves {context.target.type} here"
        context.record_cost(
            "fallback",
            f"c10d::{name}",
            "cpu",
            reason,
            origin(sys._getframe()),
            moved=moved,
            seconds=seconds,
        )

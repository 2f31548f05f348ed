"""Gloo as programs know NCCL, on tensors of the CPU: what NCCL has and gloo lacks.

Messages that can be asked whether they have arrived, futures of every collective, `reduce` that
leaves the tensors of other ranks alone, and in older torch `all_to_all` on lists. It is put
over the kernels of these operators, in which gloo's collectives are called.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from ._work import Receiving, with_future

__all__ = ["install", "remove"]

# The position of `async_op` among the arguments of what reduces and scatters.
_ASYNC = 4
_library: list[torch.library.Library] = []


def install() -> None:
    """Put our kernels over those of torch; does nothing where they are."""
    if _library:
        return
    library = torch.library.Library("c10d", "IMPL")
    rows = [(name, torch.library.get_kernel(f"c10d::{name}", "CPU"), make) for name, make in _ROWS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a kernel is put over another is the purpose
        for name, kernel, make in rows:
            ours = make(kernel.call_boxed)
            library.impl(name, ours, "CPU", with_keyset=True, allow_override=True)
    _library.append(library)


def remove() -> None:
    """Leave torch's own."""
    while _library:
        _library.pop()._destroy()


def _receives(plain: Callable[..., Any]) -> Callable[..., Any]:
    def receive(keys: Any, *args: Any, **kwargs: Any) -> Any:
        return Receiving(dist.Work.unbox(plain(keys, *args, **kwargs))).boxed()

    return receive


def _reduces(plain: Callable[..., Any]) -> Callable[..., Any]:
    def reduce_scatter(keys: Any, *args: Any, **kwargs: Any) -> Any:
        result = plain(keys, *args, **kwargs)
        if len(args) > _ASYNC and not args[_ASYNC]:
            return result  # who waits at once asks for no future
        outputs = args[0]
        written = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
        returns_tensors = isinstance(result, (tuple, list))
        work = dist.Work.unbox(result[-1] if returns_tensors else result)
        boxed = with_future(work, lambda: written).boxed()
        return (outputs, boxed) if returns_tensors else boxed

    return reduce_scatter


def _reduces_to_one(plain: Callable[..., Any]) -> Callable[..., Any]:
    def reduce(keys: Any, tensors: Any, group: Any, operation: Any, root: int, *rest: Any) -> Any:
        if dist.ProcessGroup.unbox(group).rank() != root:
            # Gloo computes in the tensors of all ranks; the others' are to stay as they are.
            tensors = [tensor.detach().clone() for tensor in tensors]
        return plain(keys, tensors, group, operation, root, *rest)

    return reduce


def _exchanges(plain: Callable[..., Any]) -> Callable[..., Any]:
    def all_to_all(keys: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return plain(keys, *args, **kwargs)
        except RuntimeError as error:
            if "does not support" not in str(error):
                raise
        outputs, inputs, group, *rest = args
        with torch._C.DisableTorchFunction(), torch.no_grad():
            sent = torch.cat([tensor.reshape(-1) for tensor in inputs])
            received = sent.new_empty(sum(tensor.numel() for tensor in outputs))
            sizes = [[tensor.numel() for tensor in tensors] for tensors in (outputs, inputs)]
            work = torch.ops.c10d.alltoall_base_(received, sent, group, *sizes, *rest)

        def finish() -> list[torch.Tensor]:
            with torch._C.DisableTorchFunction(), torch.no_grad():
                for tensor, part in zip(outputs, received.split(sizes[0]), strict=True):
                    tensor.data.copy_(part.view_as(tensor))
            return list(outputs)

        return outputs, with_future(dist.Work.unbox(work), finish).boxed()

    return all_to_all


_ROWS: tuple[tuple[str, Callable[..., Any]], ...] = (
    ("recv_", _receives),
    ("recv_any_source_", _receives),
    ("_reduce_scatter_base_", _reduces),
    ("reduce_scatter_tensor_coalesced_", _reduces),
    ("reduce_", _reduces_to_one),
    ("alltoall_", _exchanges),
)

"""Gloo as programs know NCCL, on tensors of the CPU: what NCCL has and gloo lacks.

Messages that can be asked whether they have arrived, futures where gloo has none, `reduce` that
leaves the tensors of other ranks alone, `all_gather_into_tensor` of tensors that agree in size but
not in shape, and in older torch `all_to_all` on lists. It is put over the kernels of these
operators, in which gloo's collectives are called.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ._work import Receiving, with_future

__all__ = ["install", "remove"]

_library: list[torch.library.Library] = []
with torch._C.DisableTorchFunction():  # imported under redirection, which would redirect it
    _CPU = torch.device("cpu")


def install() -> None:
    """Put our kernels over those of torch; does nothing where they are."""
    if _library:
        return
    library = torch.library.Library("c10d", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a kernel is put over another is the purpose
        for name, kernel in _KERNELS.items():
            library.impl(name, kernel, "CPU", allow_override=True)
    _library.append(library)


def remove() -> None:
    """Leave torch's own."""
    while _library:
        _library.pop()._destroy()


def _backend(group: Any) -> Any:
    """What serves a group's tensors of the CPU.

    Its methods are called as torch's kernels call them. They let other threads of Python run
    meanwhile, which torch's kernels called from Python would not: gloo's threads may need that to
    finish, as they run what follows on futures.
    """
    return dist.ProcessGroup.unbox(group)._get_backend(_CPU)


def _set(options: Any, operation: Any, async_op: bool, timeout: int) -> Any:
    options.reduceOp = dist.ReduceOp(dist.ReduceOp.RedOpType(operation.op()))
    options.asyncOp = async_op
    if timeout >= 0:
        options.timeout = timedelta(milliseconds=timeout)
    return options


def _receive(tensors: Sequence[torch.Tensor], group: Any, source: int, tag: int) -> Any:
    return Receiving(_backend(group).recv(list(tensors), source, tag)).boxed()


def _receive_from_any(tensors: Sequence[torch.Tensor], group: Any, tag: int) -> Any:
    return Receiving(_backend(group).recv_anysource(list(tensors), tag)).boxed()


def _all_gather(
    output: torch.Tensor,
    input: torch.Tensor,
    group: Any,
    async_op: bool = True,
    timeout: int = -1,
) -> Any:
    options = dist.distributed_c10d.AllgatherOptions()  # type: ignore[attr-defined]
    options.asyncOp = async_op
    if timeout >= 0:
        options.timeout = timedelta(milliseconds=timeout)
    backend = _backend(group)
    whole, part = output, input
    if output.numel() == input.numel() * backend.size() and output.is_contiguous():
        # NCCL looks at the number of elements, gloo at the shape as well.
        with torch._C.DisableTorchFunction(), torch.no_grad():
            whole, part = output.view(-1), input.reshape(-1)
    work = backend._allgather_base(whole, part, options)
    if async_op:  # who waits at once asks for no future
        work = with_future(work, lambda: [output])
    return output, work.boxed()


def _reduce_scatter(  # noqa: PLR0917 - as torch's schema has them
    output: torch.Tensor,
    input: torch.Tensor,
    group: Any,
    operation: Any,
    async_op: bool = True,
    timeout: int = -1,
) -> Any:
    options = _set(dist.ReduceScatterOptions(), operation, async_op, timeout)
    work = _backend(group)._reduce_scatter_base(output, input, options)
    if async_op:  # who waits at once asks for no future
        work = with_future(work, lambda: [output])
    return output, work.boxed()


def _reduce(  # noqa: PLR0917 - as torch's schema has them
    tensors: Sequence[torch.Tensor],
    group: Any,
    operation: Any,
    root: int,
    root_tensor: int,
    async_op: bool = True,
    timeout: int = -1,
) -> Any:
    options = _set(dist.ReduceOptions(), operation, async_op, timeout)
    options.rootRank, options.rootTensor = root, root_tensor
    backend = _backend(group)
    if backend.rank() != root:
        # Gloo computes in the tensors of all ranks; the others' are to stay as they are.
        tensors = [tensor.detach().clone() for tensor in tensors]
    return backend.reduce(list(tensors), options).boxed()


def _all_to_all(
    outputs: Sequence[torch.Tensor],
    inputs: Sequence[torch.Tensor],
    group: Any,
    async_op: bool = True,
    timeout: int = -1,
) -> Any:
    options = dist.AllToAllOptions()
    options.asyncOp = async_op
    if timeout >= 0:
        options.timeout = timedelta(milliseconds=timeout)
    backend = _backend(group)
    try:
        return list(outputs), backend.alltoall(list(outputs), list(inputs), options).boxed()
    except RuntimeError as error:
        if "does not support" not in str(error):
            raise
    with torch._C.DisableTorchFunction(), torch.no_grad():
        sent = torch.cat([tensor.reshape(-1) for tensor in inputs])
        received = sent.new_empty(sum(tensor.numel() for tensor in outputs))
        sizes = [[tensor.numel() for tensor in tensors] for tensors in (outputs, inputs)]
        work = backend.alltoall_base(received, sent, *sizes, options)

    def finish() -> list[torch.Tensor]:
        with torch._C.DisableTorchFunction(), torch.no_grad():
            for tensor, part in zip(outputs, received.split(sizes[0]), strict=True):
                tensor.data.copy_(part.view_as(tensor))
        return list(outputs)

    return list(outputs), with_future(work, finish).boxed()


_KERNELS: dict[str, Callable[..., Any]] = {
    "_allgather_base_": _all_gather,
    "recv_": _receive,
    "recv_any_source_": _receive_from_any,
    "_reduce_scatter_base_": _reduce_scatter,
    "reduce_": _reduce,
    "alltoall_": _all_to_all,
}

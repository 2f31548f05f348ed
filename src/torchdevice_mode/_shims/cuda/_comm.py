"""`torch.cuda.comm`: copies between devices, where there is one.

A list of devices may name the one device once, as on a machine with one GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.cuda.comm

from ._index import exists, index_of, invalid_ordinal
from ._surface import emulated, target

__all__: list[str] = []

_REASON = "there is one device, so it copies there"


def _devices(devices: Iterable[Any]) -> int:
    """How many devices are listed; each must exist."""
    indices = [index_of(device, optional=False) for device in devices]
    if not all(map(exists, indices)):
        raise invalid_ordinal()
    if not indices:
        raise RuntimeError("Expected at least one device to broadcast to")
    return len(indices)


def _exactly_one(devices: object, out: object) -> None:
    if (devices is None) == (out is None):
        raise RuntimeError(
            "Exactly one of 'devices' and 'out' must be specified, but got "
            f"devices={devices} and out={out}"
        )


def _here(tensor: torch.Tensor) -> torch.Tensor:
    return torch._utils._handle_complex(tensor).to(target())


@emulated("comm.broadcast", _REASON)
def broadcast(tensor: Any, devices: Any = None, *, out: Any = None) -> tuple[torch.Tensor, ...]:
    _exactly_one(devices, out)
    if out is not None:
        for written in out:
            if written.shape != tensor.shape:
                raise RuntimeError(
                    "Expected all output tensors to have same shape as the source tensor "
                    f"{list(tensor.shape)}, but got {list(written.shape)}"
                )
            written.copy_(tensor)
        return tuple(out)
    first = _here(tensor)
    return first, *(first.clone() for _ in range(_devices(devices) - 1))


@emulated("comm.broadcast_coalesced", _REASON)
def broadcast_coalesced(
    tensors: Any, devices: Any, buffer_size: int = 10485760
) -> list[list[torch.Tensor]]:
    first = [_here(tensor) for tensor in tensors]
    others = [[tensor.clone() for tensor in first] for _ in range(_devices(devices) - 1)]
    return [first, *others]


@emulated("comm.scatter", _REASON)
def scatter(
    tensor: Any,
    devices: Any = None,
    chunk_sizes: Any = None,
    dim: int = 0,
    streams: Any = None,
    *,
    out: Any = None,
) -> tuple[torch.Tensor, ...]:
    for given, name in ((devices, "devices"), (chunk_sizes, "chunk_sizes")):
        if out is not None and given is not None:
            raise RuntimeError(
                f"'{name}' must not be specified when 'out' is specified, but got {name}={given}"
            )
    if out is not None:
        chunks = tensor.split([written.size(dim) for written in out], dim)
        for written, chunk in zip(out, chunks, strict=True):
            written.copy_(chunk)
        return tuple(out)
    count = _devices(devices)
    tensor = _here(tensor)
    if chunk_sizes is None:
        return tuple(tensor.chunk(count, dim))
    if len(chunk_sizes) != count:
        raise RuntimeError("Expected devices and chunk_sizes to be of same length")
    return tuple(tensor.split(list(chunk_sizes), dim))


@emulated("comm.gather", _REASON)
def gather(
    tensors: Sequence[Any], dim: int = 0, destination: Any = None, *, out: Any = None
) -> torch.Tensor:
    tensors = [torch._utils._handle_complex(tensor) for tensor in tensors]
    if out is not None:
        if destination is not None:
            raise RuntimeError(
                "'destination' must not be specified when 'out' is specified, but got "
                f"destination={destination}"
            )
        written: torch.Tensor = out.copy_(torch.cat(list(tensors), dim))
        return written
    gathered = torch.cat(list(tensors), dim)
    to_cpu = destination == -1 or torch.device(destination or 0).type == "cpu"
    if to_cpu and target().type != "cpu":
        with torch._C.DisableTorchFunction():  # the CPU is meant
            return gathered.to("cpu")
    return gathered


@emulated("comm.reduce_add", "there is one device, so the sum is made there")
def reduce_add(inputs: Sequence[torch.Tensor], destination: Any = None) -> torch.Tensor:
    index_of(destination)
    size = inputs[0].size()
    for number, tensor in enumerate(inputs):
        if tensor.device.type != target().type:
            raise AssertionError(
                f"reduce_add expects all inputs to be on GPUs, but input {number} is on CPU"
            )
        if tensor.size() != size:
            got, expected = ("x".join(map(str, s)) for s in (tensor.size(), size))
            raise ValueError(f"input {number} has invalid size: got {got}, but expected {expected}")
    total = inputs[0]
    for tensor in inputs[1:]:
        total = total + tensor
    return total


@emulated("comm.reduce_add_coalesced", "there is one device, so the sums are made there")
def reduce_add_coalesced(
    inputs: Iterable[Iterable[torch.Tensor]], destination: Any = None, buffer_size: int = 10485760
) -> tuple[torch.Tensor, ...]:
    return tuple(reduce_add(tensors, destination).detach() for tensors in zip(*inputs, strict=True))

"""Device arguments of torch.cuda's functions, and the current device, of which there is one.

Processes that a launcher starts on a machine name a device each, by their rank there, and share the
one. So there a program finds as many devices as there are such processes, and it may select any;
the current one, and every tensor's, is device 0.
"""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

import torch

from ..._spec import parse
from ._surface import context

__all__ = [
    "checked_index",
    "count",
    "exchange",
    "exists",
    "index_of",
    "invalid_ordinal",
    "visible_index",
]

_RANKS = "LOCAL_WORLD_SIZE"  # as torchrun and other launchers set it


def count() -> int:
    """How many CUDA devices a program finds: one, or one for each rank on this machine."""
    ranks = os.environ.get(_RANKS, "")
    return max(1, int(ranks)) if ranks.isdecimal() else 1


def exists(index: int) -> bool:
    """Whether a program may name a device by this index.

    A process that another has started, to be one of several, need not say how many there are.
    """
    if index <= 0:
        return index == 0
    if index < count() or multiprocessing.parent_process() is not None:
        return True
    distributed = torch.distributed
    together = distributed.is_available() and distributed.is_initialized()
    return together and index < distributed.get_world_size()


def index_of(device: Any = None, *, optional: bool = True) -> int:
    """The index that a device argument stands for.

    Args:
        device: Index, string, `torch.device`, `torch.cuda.device`, or None.
        optional: Whether None, and what is no device at all, means the current device.

    Returns:
        An integer as it was given; 0 for every other form, as for `torch.device("cuda:3")`.

    Raises:
        ValueError: If the device is neither CUDA nor what stands for it, or has no index and
            is not optional.
        RuntimeError: If torch knows no such device.
    """
    if isinstance(device, int):
        return int(device)
    index = getattr(device, "idx", None)
    if isinstance(index, int):
        return index
    if not isinstance(device, (str, torch.device)) or (device == "cuda" and not optional):
        if optional:
            return 0  # as CUDA has it, whatever was given
        raise ValueError(
            f"Expected a torch.device with a specified index or an integer, but got:{device}"
        )
    spec = parse(device)
    if spec.type == "cuda" or spec.type == context().cuda_type.type:
        return 0
    if spec.is_accelerator and context().resolve(str(spec)).device == context().cuda_type:
        return 0
    torch.device(device)  # raises torch's own error for what torch does not know
    raise ValueError(f"Expected a cuda device, but got: {device}")


def checked_index(device: Any) -> int:
    """The index of a device argument, which must exist.

    Raises:
        AssertionError: If there is no such device, as CUDA has it.
    """
    index = index_of(device)
    if not exists(index):
        raise AssertionError("Invalid device id")
    return index


def visible_index(device: Any) -> int:
    """The index of a device argument of what asks NVIDIA's management library.

    Raises:
        RuntimeError: If there is no such device, as CUDA has it.
    """
    index = index_of(device)
    if not exists(index):
        visible = list(range(count()))
        raise RuntimeError(f"device {index} is not visible (CUDA_VISIBLE_DEVICES={visible})")
    return index


def exchange(index: int) -> int:
    """Make a device the current one: -1 for a negative index, else the previous device.

    Raises:
        RuntimeError: If there is no such device, as CUDA has it.
    """
    if index < 0:
        return -1
    if not exists(index):
        raise invalid_ordinal()
    return 0


def invalid_ordinal() -> Exception:
    """CUDA's error for a device that does not exist."""
    error: type[Exception] = getattr(torch, "AcceleratorError", RuntimeError)
    return error(
        "CUDA error: invalid device ordinal\n"
        "GPU device may be out of range, do you have enough GPUs?\n"
    )

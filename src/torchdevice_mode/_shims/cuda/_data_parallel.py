"""`nn.DataParallel`: one device stands for all that a program names, so the module runs as it is.

torch splits the inputs over the devices in C++ that only CUDA builds have. With one device there
is nothing to split; what remains is that inputs are moved to it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.parallel.scatter_gather

from ..._patches import Patch
from ._surface import redirection

__all__ = ["PATCHES"]


def _one_device(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def __init__(  # noqa: N807 - it replaces one
        self: Any,
        module: torch.nn.Module,
        device_ids: Sequence[Any] | None = None,
        output_device: Any = None,
        dim: int = 0,
    ) -> None:
        if redirection() is not None:
            device_ids = [0] if device_ids is None or len(device_ids) else device_ids
            output_device = None if output_device is None else 0
        original(self, module, device_ids, output_device, dim)

    return __init__


def _function_on_one_device(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def data_parallel(  # noqa: PLR0917 - torch has as many
        module: torch.nn.Module,
        inputs: Any,
        device_ids: Sequence[Any] | None = None,
        output_device: Any = None,
        dim: int = 0,
        module_kwargs: Any = None,
    ) -> Any:
        if redirection() is not None:
            device_ids, output_device = [0], None
        return original(module, inputs, device_ids, output_device, dim, module_kwargs)

    return data_parallel


def _to_one_device(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def scatter(inputs: Any, target_gpus: Sequence[Any], dim: int = 0) -> Any:
        context = redirection()
        if context is None:
            return original(inputs, target_gpus, dim)
        return [_moved(inputs, context.cuda_type)]

    return scatter


def _moved(value: Any, device: torch.device) -> Any:
    """What `torch.nn.parallel.scatter` looks into: tensors in tuples, lists and dictionaries."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_moved(item, device) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_moved(item, device) for item in value)
    if isinstance(value, dict):
        return type(value)((key, _moved(item, device)) for key, item in value.items())
    return value


PATCHES: tuple[Patch, ...] = (
    Patch(
        lambda: torch.nn.DataParallel,
        "__init__",
        _one_device,
        "the devices are given by number, and one stands for all",
    ),
    Patch(
        lambda: torch.nn.parallel,
        "data_parallel",
        _function_on_one_device,
        "the devices are given by number, and one stands for all",
    ),
    Patch(
        lambda: torch.nn.parallel.scatter_gather,
        "scatter",
        _to_one_device,
        "splits tensors over devices in C++ that only CUDA builds have",
    ),
)

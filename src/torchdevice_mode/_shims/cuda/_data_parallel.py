"""`nn.DataParallel`: one device stands for all that a program names, so the module runs as it is.

torch splits the inputs over the devices in C++ that only CUDA builds have. With one device there
is nothing to split; what remains is that inputs are moved to it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ._surface import redirection

__all__ = [
    "from_one_device",
    "function_on_one_device",
    "one_after_the_other",
    "one_device",
    "one_replica",
    "to_one_device",
]


def one_device(original: Callable[..., None]) -> Callable[..., None]:
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


def function_on_one_device(original: Callable[..., Any]) -> Callable[..., Any]:
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


def to_one_device(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def scatter(inputs: Any, target_gpus: Sequence[Any], dim: int = 0) -> Any:
        context = redirection()
        if context is None:
            return original(inputs, target_gpus, dim)
        return [_moved(inputs, context.cuda_type)]

    return scatter


def one_replica(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def replicate(network: Any, devices: Sequence[Any], detach: bool = False) -> Any:
        if redirection() is None:
            return original(network, devices, detach)
        # Gradients of one device's replica are those of the module itself.
        return [network] if devices else []

    return replicate


def one_after_the_other(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def parallel_apply(
        modules: Sequence[Any],
        inputs: Sequence[Any],
        kwargs_tup: Sequence[dict[str, Any]] | None = None,
        devices: Sequence[Any] | None = None,
    ) -> Any:
        if redirection() is None:
            return original(modules, inputs, kwargs_tup, devices)
        if len(modules) != len(inputs):
            raise AssertionError(
                f"The number of modules {len(modules)} is not equal to the number of inputs "
                f"{len(inputs)}"
            )
        keywords = kwargs_tup or [{}] * len(modules)
        return [
            module(*(given if isinstance(given, (list, tuple)) else (given,)), **named)
            for module, given, named in zip(modules, inputs, keywords, strict=True)
        ]

    return parallel_apply


def from_one_device(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def gather(outputs: Sequence[Any], target_device: Any, dim: int = 0) -> Any:
        if redirection() is None:
            return original(outputs, target_device, dim)
        return _joined(outputs, dim)

    return gather


def _joined(outputs: Sequence[Any], dim: int) -> Any:
    """What `torch.nn.parallel.gather` joins: tensors in tuples, lists and dictionaries."""
    first = outputs[0]
    if isinstance(first, torch.Tensor):
        # Losses have no dimension; CUDA joins them to a vector.
        return torch.cat([t.reshape(1) if t.dim() == 0 else t for t in outputs], dim)
    if first is None:
        return None
    if isinstance(first, dict):
        if any(len(first) != len(output) for output in outputs):
            raise ValueError("All dicts must have the same number of keys")
        return type(first)((key, _joined([o[key] for o in outputs], dim)) for key in first)
    joined = [_joined(parts, dim) for parts in zip(*outputs, strict=True)]
    return type(first)(*joined) if hasattr(first, "_fields") else type(first)(joined)


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

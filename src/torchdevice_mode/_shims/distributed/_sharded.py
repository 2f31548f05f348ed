"""FSDP: it asks the module of a device for streams and its number.

For the target that is `torch.cuda`, which has all that CUDA has; `torch.mps` has not.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch

from ..._patches import Hook, Parameter, Patch, imported
from ._groups import redirection, where_held

__all__ = ["PATCHES"]


def _handle_as_cuda(original: Any) -> Any:
    plain = original.__func__

    def from_device(cls: Any, device: torch.device) -> Any:
        context = redirection()
        if context is not None and device.type == context.target.type:
            return torch.cuda
        return plain(cls, device)

    return classmethod(functools.wraps(plain)(from_device))


def _handle_of_target(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _init_device_handle(state: Any, module: Any, ignored_params: Any, device_id: Any) -> Any:
        context = redirection()
        if context is not None and device_id is None and context.target.type == "cpu":
            state._device_handle = torch.cuda  # torch would refuse a module on the CPU
            return state
        return original(state, module, ignored_params, device_id)

    return _init_device_handle


def _without_offload(original: Callable[..., None]) -> Callable[..., None]:
    parameter = Parameter(original, "cpu_offload")

    @functools.wraps(original)
    def __init__(*args: Any, **kwargs: Any) -> None:  # noqa: N807 - it replaces one
        context = redirection()
        if context is not None and context.target.type == "cpu":
            # Parameters are on the CPU anyway, and must not be taken for copies there.
            args, kwargs = parameter.replaced(args, kwargs, None)
        original(*args, **kwargs)

    return __init__


def _where_it_is(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def to_cpu(self: Any) -> Any:
        context = redirection()
        if context is not None and context.target.type == "cpu":
            return contextlib.nullcontext()
        return original(self)

    return to_cpu


_FSDP = "torch.distributed.fsdp"


_BY_MODULE = "asks a device's module for streams, which only torch.cuda has"

PATCHES: dict[str, tuple[Patch | Hook, ...]] = {
    f"{_FSDP}._common_utils": (
        Patch(
            imported(f"{_FSDP}._common_utils", "_FSDPDeviceHandle"),
            "from_device",
            _handle_as_cuda,
            _BY_MODULE,
        ),
    ),
    f"{_FSDP}._init_utils": (
        Patch(
            imported(f"{_FSDP}._init_utils"),
            "_init_device_handle",
            _handle_of_target,
            "refuses modules on the CPU, which may be the target",
        ),
    ),
    f"{_FSDP}.fully_sharded_data_parallel": (
        Patch(
            imported(f"{_FSDP}.fully_sharded_data_parallel", "FullyShardedDataParallel"),
            "__init__",
            _without_offload,
            "takes what is on the CPU for a copy, where the CPU is the target",
        ),
        Hook(
            where_held(
                f"{_FSDP}.fully_sharded_data_parallel", "_init_device_handle", _handle_of_target
            ),
            "refuses modules on the CPU, which may be the target",
        ),
    ),
    f"{_FSDP}._flat_param": (
        Patch(
            imported(f"{_FSDP}._flat_param", "FlatParamHandle"),
            "to_cpu",
            _where_it_is,
            "takes what is on the CPU for a copy, where the CPU is the target",
        ),
    ),
}

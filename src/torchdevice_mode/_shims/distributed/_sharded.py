"""Device meshes, FSDP and DTensor: they ask the module of a device for streams and its number.

For the target that is `torch.cuda`, which has all that CUDA has; `torch.mps` has not.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import device_mesh

from ..._patches import Hook, Parameter, Patch, Patches, imported, late
from ._groups import redirection

__all__ = ["PATCHES"]


def _of_target(original: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose parameter `device_type` goes through the policy."""
    parameter = Parameter(original, "device_type")

    @functools.wraps(original)
    def answer(*args: Any, **kwargs: Any) -> Any:
        context = redirection()
        asked = parameter.given(args, kwargs)
        if context is None or not isinstance(asked, str) or not asked.isalpha():
            return original(*args, **kwargs)
        device = context.device_for(asked, sys._getframe(1))
        if device is not None:
            args, kwargs = parameter.replaced(args, kwargs, device.type)
        return original(*args, **kwargs)

    return answer


def _as_cuda(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _get_device_handle(device_type: str = "cuda") -> Any:
        context = redirection()
        if context is not None and device_type == context.target.type != "cpu":
            return torch.cuda
        return original(device_type)

    return _get_device_handle


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


# --- references that torch's modules took when they were imported -------------------------------

_FSDP = "torch.distributed.fsdp"


def _held_by(module: types.ModuleType | None, name: str) -> Any:
    return None if module is None else vars(module).get(name)


def _where_imported(owner: str, name: str, replace: Callable[[Any], Any]) -> Callable[[], Any]:
    """Installs a replacement in all modules below torch.distributed that hold the original."""

    def install() -> Callable[[], None]:
        original = getattr(sys.modules.get(owner), name, None)
        patches = Patches()
        if original is None:
            return patches.restore
        # By name: pairs of all modules would be so many that Python collected garbage here.
        below = [path for path in list(sys.modules) if path.startswith("torch.distributed.")]
        holders = [
            module for module in map(sys.modules.get, below) if _held_by(module, name) is original
        ]
        patches.install(
            [
                Patch(lambda module=module: module, name, replace, "")  # type: ignore[misc]
                for module in holders
            ]
        )
        return patches.restore

    return install


_NO_FUNCTION = "takes the name of a device, and no tensor that a mode could see"
_BY_MODULE = "asks a device's module for streams, which only torch.cuda has"

PATCHES: tuple[Patch | Hook, ...] = (
    Patch(lambda: device_mesh.DeviceMesh, "__init__", _of_target, _NO_FUNCTION),
    Patch(lambda: device_mesh, "init_device_mesh", _of_target, _NO_FUNCTION),
    Patch(lambda: dist, "init_device_mesh", _of_target, _NO_FUNCTION),
    Hook(_where_imported(device_mesh.__name__, "_get_device_handle", _as_cuda), _BY_MODULE),
    late(
        f"{_FSDP}._common_utils",
        Patch(
            imported(f"{_FSDP}._common_utils", "_FSDPDeviceHandle"),
            "from_device",
            _handle_as_cuda,
            _BY_MODULE,
        ),
    ),
    late(
        f"{_FSDP}._init_utils",
        Patch(
            imported(f"{_FSDP}._init_utils"),
            "_init_device_handle",
            _handle_of_target,
            "refuses modules on the CPU, which may be the target",
        ),
    ),
    late(
        f"{_FSDP}.fully_sharded_data_parallel",
        Patch(
            imported(f"{_FSDP}.fully_sharded_data_parallel", "FullyShardedDataParallel"),
            "__init__",
            _without_offload,
            "takes what is on the CPU for a copy, where the CPU is the target",
        ),
    ),
    late(
        f"{_FSDP}._flat_param",
        Patch(
            imported(f"{_FSDP}._flat_param", "FlatParamHandle"),
            "to_cpu",
            _where_it_is,
            "takes what is on the CPU for a copy, where the CPU is the target",
        ),
    ),
    Hook(
        _where_imported(
            f"{_FSDP}.fully_sharded_data_parallel", "_init_device_handle", _handle_of_target
        ),
        "refuses modules on the CPU, which may be the target",
    ),
)

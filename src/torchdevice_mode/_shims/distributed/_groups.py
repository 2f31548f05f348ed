"""Groups of processes: a program that names NCCL gets what serves the target.

All groups are made by one function of torch, also those of device meshes. It is given the backend
that serves the target, and the group keeps the name that the program gave: `get_backend()` says
`nccl`, and whoever compares it takes the way that is for CUDA, whose tensors are the target's.

Device meshes, and what is built on them, ask the module of a device for streams and its number. For
the target that is `torch.cuda`, which has all that CUDA has; `torch.mps` has not.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import device_mesh

from ..._active import current
from ..._context import Context
from ..._patches import Hook, Parameter, Patch, Patches, original_of
from ...errors import UnsupportedByTargetError
from . import _splitting
from ._settling import settle_at_end

__all__ = ["PATCHES", "redirection", "where_held"]

_c10d: Any = sys.modules.get("torch.distributed.distributed_c10d")
# What serves groups, by target: kept, as groups may outlive one redirection and meet the next.
_served: dict[str, str] = {}


def redirection() -> Context | None:
    """The redirection under which requests for CUDA go elsewhere; None where plain torch holds."""
    context = current()
    return None if context is None or context.cuda_type.type == "cuda" else context


def _for_target(original: Callable[..., Any]) -> Callable[..., Any]:
    parameter = Parameter(original, "backend")

    @functools.wraps(original)
    def _new_process_group_helper(*args: Any, **kwargs: Any) -> Any:
        context = redirection()
        asked = parameter.given(args, kwargs)
        if context is None or not isinstance(asked, str):
            return original(*args, **kwargs)
        from ._backend import serving

        backend = serving(asked, context)
        _serve(context.target.type, backend)
        args, kwargs = parameter.replaced(args, kwargs, backend)
        if backend != asked and _is_for_nccl(kwargs.get("backend_options")):
            kwargs["backend_options"] = None
        device = kwargs.get("device_id")
        if device is not None and device.type == "cpu":
            kwargs["device_id"] = None  # connections are made when the group is: nothing to hasten
        group, store = original(*args, **kwargs)
        if group in _c10d._world.pg_map:
            _c10d._world.pg_map[group] = dist.Backend(asked), _c10d._world.pg_map[group][1]
        return group, store

    return _new_process_group_helper


def _serve(target: str, backend: str) -> None:
    """Put in place what groups of a target need, of the backends in a string."""
    from . import _backend, _on_gloo, _staging

    if _backend.NAME in backend:
        _backend.register(target)
    if target != "cpu" and (_backend.NAME in backend or "gloo" in backend):
        _staging.install(target)
    if _backend.NAME in backend or "gloo" in backend:
        _on_gloo.install()
        settle_at_end()
        _served[target] = backend


def _serve_again() -> Callable[[], None]:
    """Serve groups that an earlier redirection made, and stop when this one ends."""
    if dist.is_initialized():
        settle_at_end()
        for target, backend in _served.items():
            _serve(target, backend)

    def remove() -> None:
        if _served:
            from . import _backend, _on_gloo, _staging

            _staging.remove()
            _on_gloo.remove()
            _backend.unregister()

    return remove


def _by_rank(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def init_process_group(
        backend: str | None = None, *args: Any, device_id: Any = None, **kwargs: Any
    ) -> None:
        context = redirection()
        _splitting.note_device(device_id)
        if context is not None and device_id is not None:
            if isinstance(device_id, int):
                # Ranks of one machine share its device.
                device_id = context.target
            if backend is None and device_id.type == context.target.type:
                backend = "nccl"  # as for a device of CUDA
        original(backend, *args, device_id=device_id, **kwargs)

    return init_process_group


def _available(original: Callable[[], bool]) -> Callable[[], bool]:
    @functools.wraps(original)
    def is_nccl_available() -> bool:
        return redirection() is not None or original()

    return is_nccl_available


# --- device meshes ------------------------------------------------------------------------------


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


def _held_by(module: types.ModuleType | None, name: str) -> Any:
    return None if module is None else vars(module).get(name)


def where_held(owner: str, name: str, replace: Callable[[Any], Any]) -> Callable[[], Any]:
    """Installs a replacement in all modules below torch.distributed that hold the original."""

    def install() -> Callable[[], None]:
        original = getattr(sys.modules.get(owner), name, None)
        patches = Patches()
        if original is None or original_of(original) is not original:
            return patches.restore  # it was imported when it had been replaced
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


# --- options of NCCL ----------------------------------------------------------------------------

_TIMEOUT = timedelta(minutes=10)


class _Config:
    """Knobs of NCCL: accepted and remembered."""

    NCCL_CTA_POLICY_DEFAULT = 0


class _Options:
    """Options of a group on NCCL: there are no streams to prioritise and no kernels to size."""

    def __init__(self, is_high_priority_stream: bool = False) -> None:
        self.is_high_priority_stream = is_high_priority_stream
        self.config = _Config()
        self._timeout = _TIMEOUT
        self.global_ranks_in_group: list[int] = []
        self.group_name = ""

    @property
    def backend(self) -> str:
        """The backend that they are for."""
        return "nccl"


class ProcessGroupNCCL:
    """Stands for the class that only CUDA builds of torch have. No group is one."""

    Options = _Options
    NCCLConfig = _Config
    NCCL_CTA_POLICY_DEFAULT, NCCL_CTA_POLICY_EFFICIENCY, NCCL_CTA_POLICY_ZERO = 0, 1, 2

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise UnsupportedByTargetError(
            "ProcessGroupNCCL cannot be made here, because NCCL talks to NVIDIA devices only: make "
            'groups with torch.distributed.init_process_group("nccl"), which are served otherwise.'
        )


_Options.__name__ = _Options.__qualname__ = "Options"
ProcessGroupNCCL.__module__ = "torch.distributed.distributed_c10d"


def _is_for_nccl(options: Any) -> bool:
    kind = getattr(_c10d, "ProcessGroupNCCL", ProcessGroupNCCL)
    return isinstance(options, (kind.Options, _Options))


def _where_missing(module: Any, name: str) -> Any:
    return None if module is None or name in vars(module) else module


_NO_FUNCTION = "takes the name of a backend, and no tensor that a mode could see"
_BY_NAME = "takes the name of a device, and no tensor that a mode could see"
_BY_MODULE = "asks a device's module for streams, which only torch.cuda has"
_SPLIT = "splits what NCCL can split, and no tensor is handed to it that a mode could see"
_NO_NCCL = "torch has it in builds for CUDA only"

_modules = () if _c10d is None else (_c10d, torch.distributed)

PATCHES: tuple[Patch | Hook, ...] = (
    Patch(lambda: _c10d, "_new_process_group_helper", _for_target, _NO_FUNCTION),
    *(
        patch
        for module in _modules
        for patch in (
            Patch(
                lambda module=module: module,  # type: ignore[misc]
                "init_process_group",
                _by_rank,
                "checks the number of the device before a group is made",
            ),
            Patch(
                lambda module=module: module,  # type: ignore[misc]
                "is_nccl_available",
                _available,
                "programs ask before they name NCCL",
            ),
            Patch(
                lambda module=module: _where_missing(module, "ProcessGroupNCCL"),  # type: ignore[misc]
                "ProcessGroupNCCL",
                lambda original: ProcessGroupNCCL,
                _NO_NCCL,
            ),
        )
    ),
    Patch(
        lambda: None if getattr(_c10d, "default_pg_nccl_timeout", 0) is not None else _c10d,
        "default_pg_nccl_timeout",
        lambda original: _TIMEOUT,
        _NO_NCCL,
    ),
    Patch(lambda: device_mesh.DeviceMesh, "__init__", _of_target, _BY_NAME),
    Patch(lambda: device_mesh, "init_device_mesh", _of_target, _BY_NAME),
    Patch(lambda: dist, "init_device_mesh", _of_target, _BY_NAME),
    Hook(where_held(device_mesh.__name__, "_get_device_handle", _as_cuda), _BY_MODULE),
    Hook(where_held(getattr(_c10d, "__name__", ""), "split_group", _splitting.for_gloo), _SPLIT),
    Patch(
        lambda: dist if hasattr(dist, "split_group") else None,
        "split_group",
        _splitting.for_gloo,
        _SPLIT,
    ),
    Hook(_serve_again, "groups live on when a redirection ends, and may meet another"),
)

"""What takes a device and is no torch function: storages, and some functions in Python."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nested
from torch.compiler import is_compiling

from .._active import current
from .._out_of_memory import reports_out_of_memory
from .._patches import Parameter, Patch, parameters
from .._rules.factories import unpinned

__all__ = ["PATCHES"]


def _through_policy(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose `device` argument goes through the policy."""
    parameter = Parameter(function, "device")

    @functools.wraps(function)
    def answer(*args: Any, **kwargs: Any) -> Any:
        context = current()
        if context is None:
            return function(*args, **kwargs)
        kwargs = unpinned(context, kwargs)
        request = parameter.given(args, kwargs)
        if request is None:
            return function(*args, **kwargs)
        frame = None if is_compiling() else sys._getframe(1)
        device = context.device_for(request, frame)
        if device is not None:
            args, kwargs = parameter.replaced(args, kwargs, device)
        return function(*args, **kwargs)

    return answer


def _storage_on_target(original: Callable[..., Any]) -> Any:
    make = reports_out_of_memory(original)

    def __new__(cls: type, *args: Any, **kwargs: Any) -> Any:  # noqa: N807 - it replaces one
        context = current()
        request = kwargs.get("device")
        if context is not None and request is not None:
            device = context.device_for(request, sys._getframe(1))
            kwargs["device"] = request if device is None else device
        return make(cls, *args, **kwargs)

    return staticmethod(__new__)


def _blocking(copy: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(copy)
    def copy_(self: Any, source: Any, non_blocking: bool | None = None) -> Any:
        context = current()
        if context is not None and context.target.type == "mps":
            non_blocking = False  # it corrupts data there
        return copy(self, source, non_blocking)

    return copy_


# Module and name of functions that torch writes in Python without an override for modes.
_PYTHON_FUNCTIONS = (
    ("torch.nested", "nested_tensor"),
    ("torch.nested", "as_nested_tensor"),
    ("torch.nested", "nested_tensor_from_jagged"),
    ("torch", "from_dlpack"),
)


def _python_function_patches() -> tuple[Patch, ...]:
    patches = []
    for module_name, name in _PYTHON_FUNCTIONS:
        module = sys.modules.get(module_name)
        function = getattr(module, name, None)
        if function is None or "device" not in parameters(function):
            continue  # another version of torch
        patches.append(
            Patch(
                lambda module=module: module,  # type: ignore[misc]
                name,
                _through_policy,
                "written in Python without `__torch_function__`, so no mode sees the call",
            )
        )
    return tuple(patches)


PATCHES: tuple[Patch, ...] = (
    Patch(
        lambda: torch.UntypedStorage,
        "__new__",
        _storage_on_target,
        "a C++ class: its constructor parses the device before any mode could see it",
    ),
    Patch(
        lambda: torch.UntypedStorage,
        "copy_",
        _blocking,
        "no mode sees storages, and asynchronous copies corrupt data on MPS",
    ),
    *_python_function_patches(),
)

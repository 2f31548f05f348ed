"""The dispatch mode: rewrites devices in aten operators, also those called from C++.

It sees what the function mode cannot: TorchScript, custom operators, legacy constructors. It
costs microseconds an operator, so by default it is on only around such calls. Below the
dispatcher nobody can tell "no device" from "the CPU", so only requests for accelerators are
rewritten here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ._context import Context
from ._cpu_operator import on_cpu
from ._downcast import narrowed_operator
from ._on_cpu import refusal, refuses_on_the_target

__all__ = ["RedirectDispatchMode", "device_arguments"]

_device_arguments: dict[Any, tuple[tuple[str, int], ...]] = {}


def device_arguments(func: Any) -> tuple[tuple[str, int], ...]:
    """Name and position of the arguments of an operator that are devices, from its schema.

    Args:
        func: An `OpOverload`.

    Returns:
        The pairs; empty for most operators. Cached, since a schema never changes.
    """
    found = _device_arguments.get(func)
    if found is None:
        found = _device_arguments[func] = tuple(
            (argument.name, position)
            for position, argument in enumerate(func._schema.arguments)
            if "Device" in str(argument.type)
        )
    return found


class RedirectDispatchMode(TorchDispatchMode):
    """Rewrites accelerator requests in operators that reach the dispatcher.

    What the target refuses is computed on the CPU: in the backward pass nothing above this mode
    could make the call anew.

    Args:
        context: The redirection that it carries out.

    Attributes:
        recovered: Whether anything was refused.
    """

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.context = context
        self.recovered = False

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Dynamo skips every frame under a dispatch mode that does not say this."""
        return True

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if device_arguments(func):
            args, kwargs = self._rewritten(func, args, kwargs or {})
        try:
            # Function modes are on in the backward pass, and have no business with operators.
            with torch._C.DisableTorchFunction():
                return func(*args, **kwargs) if kwargs else func(*args)
        except Exception as error:
            if not refuses_on_the_target(self.context, error):
                raise
            self.recovered = True
            why = refusal(self.context, error)
            with torch._C.DisableTorchFunction():
                narrowed = narrowed_operator(
                    self.context, func, args, kwargs or {}, error=error, frame=sys._getframe(1)
                )
                if narrowed is not None:
                    return func(*narrowed[0], **narrowed[1])
        return on_cpu(func)(self.context, why, args, kwargs or {})

    def _rewritten(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        for name, position in device_arguments(func):
            given = args[position] if position < len(args) else kwargs.get(name)
            if not isinstance(given, torch.device) or given.type in ("cpu", "meta"):
                continue
            device = self.context.device_for(given, None)
            if device is None:
                continue
            if position < len(args):
                args = (*args[:position], device, *args[position + 1 :])
            else:
                kwargs = {**kwargs, name: device}
        if self.context.target.type == "mps" and kwargs.get("non_blocking"):
            # As the rules for `Tensor.to` have it: such copies corrupt data there.
            kwargs = {**kwargs, "non_blocking": False}
        return args, kwargs

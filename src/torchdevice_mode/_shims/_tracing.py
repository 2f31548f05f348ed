"""What Dynamo does with a function mode, made to fit ours: changes of its classes, for `compiler`.

Dynamo traces each call of a torch function through a mode, also where the mode does nothing. Then
it cannot trace some calls that it knows without a mode (`unflatten`, numpy arrays), takes operators
apart (`2 - x`), and traces the body of `torch.cond` or of a checkpoint without the mode. Ours has
nothing to say to functions without a row, so it is set aside for them: they are traced, and
guarded, as in plain torch. And some things that rows are for Dynamo shows to no mode:
`torch.device` and `x.is_cuda`.

Each change does what the original does wherever no mode of ours is on the stack that Dynamo traces.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .._caller import asked_by_torch
from .._context import Context
from .._function_mode import RedirectFunctionMode
from .._rules import RULES
from .._rules.devices import requested

__all__ = [
    "answering_is_cuda",
    "deciding_devices",
    "not_for_the_mode",
    "without_the_mode_for_methods",
    "without_the_mode_for_functions",
]

_Method = Callable[..., Any]


def _mode(variable: Any) -> RedirectFunctionMode | None:
    """The mode of ours that one of Dynamo's variables stands for."""
    mode = getattr(variable.realize(), "value", None)
    return mode if isinstance(mode, RedirectFunctionMode) else None


def _context(tracer: Any) -> Context | None:
    """The redirection that holds in the code that is traced."""
    for variable in reversed(tracer.symbolic_torch_function_state.mode_stack):
        mode = _mode(variable)
        if mode is not None:
            return mode.context
    return None


@contextmanager
def _set_aside(tracer: Any) -> Iterator[None]:
    """Our mode off the stack that is traced, if it is on top."""
    stack = tracer.symbolic_torch_function_state.mode_stack
    aside = stack.pop() if stack and _mode(stack[-1]) is not None else None
    try:
        yield
    finally:
        if aside is not None:
            stack.append(aside)


def _is_asked_by_torch(tracer: Any, *, absent: bool) -> bool:
    """Whether the code that is traced is torch's own, and means what it asks for."""
    frame: Any = types.SimpleNamespace(f_globals=tracer.f_globals, f_code=tracer.f_code)
    return asked_by_torch(frame, absent=absent)


# --- functions without a row ----------------------------------------------------------------------


# Who asks Dynamo whether a call is for a mode, of calls that never have a row: Python's operators,
# indexing, and higher-order operators, whose bodies are the program's code.
_NEVER_RULED = frozenset({"_handle_insert_op_in_graph", "mp_subscript_impl", "call_function"})


def not_for_the_mode(original: Callable[..., bool]) -> Callable[..., bool]:
    """`can_dispatch_torch_function`, which all of them import when they ask."""

    @functools.wraps(original)
    def can_dispatch_torch_function(tx: Any, args: Any, kwargs: Any) -> bool:
        # Not by who they are: Dynamo keeps its handlers of operators, made once.
        if sys._getframe(1).f_code.co_name not in _NEVER_RULED:
            return original(tx, args, kwargs)
        with _set_aside(tx):
            return original(tx, args, kwargs)

    return can_dispatch_torch_function


def without_the_mode_for_methods(original: _Method) -> _Method:
    """`TensorVariable.call_method`."""

    @functools.wraps(original)
    def call_method(self: Any, tx: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        method = getattr(torch.Tensor, name, None)
        if method is not None and method in RULES:
            return original(self, tx, name, *args, **kwargs)
        with _set_aside(tx):
            return original(self, tx, name, *args, **kwargs)

    return call_method


def without_the_mode_for_functions(original: _Method) -> _Method:
    """`torch_function_override_enabled`: whether a function is handed to a mode at all."""

    @functools.wraps(original)
    def torch_function_override_enabled(self: Any, tx: Any, *args: Any, **kwargs: Any) -> Any:
        if self.get_function() in RULES:
            return original(self, tx, *args, **kwargs)
        with _set_aside(tx):
            return original(self, tx, *args, **kwargs)

    return torch_function_override_enabled


# --- what Dynamo shows to no mode -----------------------------------------------------------------


def deciding_devices(original: _Method) -> _Method:
    """`UserDefinedClassVariable.call_function`, which makes a constant of `torch.device(...)`."""

    @functools.wraps(original)
    def call_function(self: Any, tx: Any, args: Any, kwargs: Any) -> Any:
        if self.value is torch.device and all(
            value.is_python_constant() for value in (*args, *kwargs.values())
        ):
            context = _context(tx)
            device = None if context is None else _decided(context, tx, args, kwargs)
            if device is not None:
                return self.build(tx, device)
        return original(self, tx, args, kwargs)

    return call_function


def _decided(context: Context, tracer: Any, args: Any, kwargs: Any) -> torch.device | None:
    request = requested(
        tuple(value.as_python_constant() for value in args),
        {name: value.as_python_constant() for name, value in kwargs.items()},
    )
    if request is None:
        return None
    try:
        resolution = context.resolve(request)
    except TypeError:  # unhashable
        return None
    yields = resolution.redirected and resolution.decision.yields_to_torch
    return None if yields and _is_asked_by_torch(tracer, absent=False) else resolution.device


def answering_is_cuda(original: _Method) -> _Method:
    """`TensorVariable.method_attr_is_cuda`."""

    @functools.wraps(original)
    def method_attr_is_cuda(self: Any, tx: Any) -> Any:
        context = _context(tx)
        if (
            context is not None
            and self.device is not None
            and self.device.type == context.cuda_type.type
            and not _is_asked_by_torch(tx, absent=True)
        ):
            return self.build(tx, True)
        return original(self, tx)

    return method_attr_is_cuda

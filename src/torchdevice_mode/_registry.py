"""The registry: one row for each torch function whose device argument is rewritten.

A row names functions, says how they take a device, and why a row is needed where that is not
plain. The modes look functions up in the one dictionary that is built from the rows.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch.compiler import is_compiling

from ._caller import calling_frame
from ._context import Context

__all__ = ["Handler", "Rule", "build", "caller", "replacement", "resolve_path"]

Handler = Callable[[Context, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Called as `handler(context, func, args, kwargs)` in place of `func(*args, **kwargs)`."""


class Rule(NamedTuple):
    """A row: these functions are answered by this handler.

    Attributes:
        functions: Dotted names below torch, such as `"torch.Tensor.to"`; or a callable that
            derives them from the installed torch.
        handler: What is called instead.
        reason: Why these functions need it.
    """

    functions: tuple[str, ...] | Callable[[], Iterable[str]]
    handler: Handler
    reason: str

    def names(self) -> tuple[str, ...]:
        """The names of the row, derived now where they are derived."""
        return tuple(self.functions() if callable(self.functions) else self.functions)


def resolve_path(path: str) -> Any:
    """The object that a dotted name such as `"torch.Tensor.to"` stands for.

    Args:
        path: A name that begins with `torch`. A trailing `.__get__` is read from the raw
            descriptor, which is what a mode is given for an attribute.

    Returns:
        The object, or None where the installed torch does not have it.
    """
    value: Any = torch
    for part in path.split(".")[1:]:
        value = getattr(value, part, None)
        if value is None:
            return None
    return value


def build(rules: Iterable[Rule]) -> dict[Any, Handler]:
    """The dictionary from torch functions to handlers.

    Args:
        rules: The rows.

    Returns:
        Handlers by function; names that the installed torch lacks are left out.

    Raises:
        ValueError: If two rows claim one function under different handlers.
    """
    table: dict[Any, Handler] = {}
    for rule in rules:
        for name in rule.names():
            function = resolve_path(name)
            if function is None:
                continue
            if table.get(function, rule.handler) is not rule.handler:
                raise ValueError(f"two rules claim {name}")
            table[function] = rule.handler
    return table


def caller(depth: int) -> types.FrameType | None:
    """The frame that called torch, seen from a handler; None while Dynamo traces, which has none.

    Args:
        depth: 0 in a handler, 1 in a function that a handler calls, and so on.
    """
    return None if is_compiling() else calling_frame(depth + 3)


def replacement(
    context: Context, request: Any, depth: int = 0, *, to_use: bool = True
) -> torch.device | None:
    """The device that replaces what a handler was given.

    Args:
        context: The redirection.
        request: The request, in any form.
        depth: As for `caller`.
        to_use: Whether the call uses the device, and does not only name it.

    Returns:
        The device; None to hand the call to torch as it came, which is also right for what is
        no device at all: torch has an error for that.
    """
    if is_compiling():
        return context.device_for(request, None)
    try:
        resolution = context.resolve(request, to_use)
    except TypeError:  # unhashable
        return None
    if not resolution.redirected:
        return resolution.device
    return context.granted(resolution, request, calling_frame(depth + 3))

"""The function mode: every call of a torch function passes through this one method.

It is the hot path. A call without a rule costs one dictionary lookup beside what torch's C++
takes for any mode; no import, literal or attribute chain belongs here. What a rule needs it
finds out itself. Changes here come with the figures of `benchmarks/overhead.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.overrides import TorchFunctionMode

from ._context import Context
from ._rules import RULES

__all__ = ["RedirectFunctionMode"]

_classes: dict[int, type[RedirectFunctionMode]] = {}


class RedirectFunctionMode(TorchFunctionMode):
    """Rewrites the device arguments of torch functions called in Python.

    Stateless, so that threads may share it and Dynamo can trace it. Dynamo tells modes apart by
    their classes, so contexts that decide differently have modes of different classes.

    Args:
        context: The redirection that it carries out.
    """

    def __new__(cls, context: Context) -> RedirectFunctionMode:
        own = _classes.get(context.number)
        if own is None:
            own = _classes[context.number] = type(cls.__name__, (cls,), {"__doc__": cls.__doc__})
        return super().__new__(own)

    def __init__(self, context: Context) -> None:
        self.context = context

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        try:
            if func in RULES:
                return RULES[func](self.context, func, args, kwargs or {})
            return func(*args, **kwargs) if kwargs else func(*args)
        except Exception as error:
            # Not above: a program that starts seldom comes here, and it takes a while.
            from ._recovery import call_anew, recover

            call = recover(self.context, func, args, kwargs or {}, error)
            if call is None:
                raise
        return call_anew(self.context, *call)

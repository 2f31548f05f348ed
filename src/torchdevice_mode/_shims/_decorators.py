"""Reads in a function's source what `@torch.autocast(...)` above it was told.

Without CUDA torch switches an autocast off when it is made, and does not keep what it was told.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any

__all__ = ["read_enabled"]


def read_enabled(function: Any, position: int) -> bool | None:
    """The argument `enabled` of the autocast that decorates a function.

    Args:
        function: The function below the decorator.
        position: The argument's position, if it is given by position.

    Returns:
        Its value, True where it is left out; None where the source does not tell.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        (definition,) = tree.body
        (call,) = (
            decorator
            for decorator in definition.decorator_list  # type: ignore[attr-defined]
            if isinstance(decorator, ast.Call) and _name(decorator.func).endswith("autocast")
        )
    except (OSError, TypeError, ValueError, SyntaxError, AttributeError):
        return None
    given = [keyword.value for keyword in call.keywords if keyword.arg == "enabled"]
    given += call.args[position : position + 1]
    if any(keyword.arg is None for keyword in call.keywords) or len(given) > 1:
        return None
    return _value(given[0], function) if given else True


def _name(node: ast.expr) -> str:
    return str(getattr(node, "attr", None) or getattr(node, "id", ""))


def _value(node: ast.expr, function: Any) -> bool | None:
    value: Any = None
    if isinstance(node, ast.Constant):
        value = node.value
    elif isinstance(node, ast.Name):
        value = function.__globals__.get(node.id)
    return value if isinstance(value, bool) else None

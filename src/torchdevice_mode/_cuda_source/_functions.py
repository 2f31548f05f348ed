"""The arithmetic of C++ on numbers and tensors: operators, conversions, mathematical functions."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ._syntax import TYPES

__all__ = ["FUNCTIONS", "Value", "binary", "cast", "choose", "negated", "truth"]

Value = Any
"""A Python number, the same for all threads, or a tensor with one for each."""

_FLOATS = {
    "float": torch.float32,
    "double": torch.float64,
    "half": torch.float32,  # computed with as float
    "__half": torch.float32,
    "__nv_bfloat16": torch.float32,
}


def cast(value: Value, kind: str, template: torch.dtype | None) -> Value:
    """Convert to a type, as an assignment does.

    Args:
        value: What is assigned.
        kind: Name of the type.
        template: What a template's type stands for.

    Returns:
        The value in that type.
    """
    if kind == "auto":
        return value
    if not set(kind.split()) <= TYPES:
        assert template is not None
        if isinstance(value, Tensor):
            return value.to(template)
        if template.is_complex:
            return complex(value)
        return float(value) if template.is_floating_point else _python_integer(value, template)
    if kind in _FLOATS:
        if not isinstance(value, Tensor):
            return float(value)
        if kind == "double":
            # Not every device has it: what is computed with stays as wide as it is.
            return value if value.is_floating_point() else value.float()
        return value.to(_FLOATS[kind])
    if kind == "bool":
        return truth(value)
    if isinstance(value, Tensor):
        value = value if not value.is_floating_point() else value.to(torch.int64)
        value = value.to(torch.int64) if value.dtype == torch.bool else value
    else:
        value = int(value)
    if kind in ("unsigned", "unsigned int", "uint", "uint32_t"):
        if isinstance(value, Tensor):
            value = value.to(torch.int64)
        return value & 0xFFFFFFFF
    return value


def _python_integer(value: Value, dtype: torch.dtype) -> Value:
    return bool(value) if dtype == torch.bool else int(value)


def truth(value: Value) -> Value:
    """Whether it is not 0."""
    return value != 0 if isinstance(value, Tensor) and value.dtype != torch.bool else _bool(value)


def _bool(value: Value) -> Value:
    return value if isinstance(value, Tensor) else bool(value)


def negated(value: Value) -> Value:
    """Whether it is 0."""
    value = truth(value)
    return ~value if isinstance(value, Tensor) else not value


def choose(condition: Value, then: Value, other: Value) -> Value:
    """One of two values, where each thread has its own condition."""
    if not isinstance(condition, Tensor):
        return then if condition else other
    if not isinstance(then, Tensor) and not isinstance(other, Tensor):
        both = (then, other)
        kind = torch.bool if all(isinstance(one, bool) for one in both) else torch.int64
        kind = torch.float32 if any(isinstance(one, float) for one in both) else kind
        device = condition.device
        then, other = (torch.full((), one, dtype=kind, device=device) for one in both)
    return torch.where(condition, then, other)


def _is_integer(value: Value) -> bool:
    if isinstance(value, Tensor):
        return not (value.is_floating_point() or value.is_complex())
    return isinstance(value, int)


def _number_of(value: Value) -> Value:
    """bool counts as int."""
    if isinstance(value, Tensor):
        return value.to(torch.int64) if value.dtype == torch.bool else value
    return int(value) if isinstance(value, bool) else value


def _divide(left: Value, right: Value) -> Value:
    if not (_is_integer(left) and _is_integer(right)):
        if not isinstance(left, Tensor) and not isinstance(right, Tensor):
            return _float_quotient(float(left), float(right))
        return left / right
    if isinstance(left, Tensor) or isinstance(right, Tensor):
        # What threads without a divisor get is never used.
        return torch.div(left, _without_zero(right), rounding_mode="trunc")
    return int(math.copysign(1, left) * math.copysign(1, right)) * (abs(left) // abs(right or 1))


def _float_quotient(left: float, right: float) -> float:
    if right:
        return left / right
    return math.nan if left == 0 or math.isnan(left) else math.copysign(math.inf, left)


def _remainder(left: Value, right: Value) -> Value:
    if isinstance(left, Tensor) or isinstance(right, Tensor):
        left = left if isinstance(left, Tensor) else torch.full_like(right, left)
        return torch.fmod(left, _without_zero(right))
    return int(math.fmod(left, right or 1))


def _without_zero(divisor: Value) -> Value:
    if isinstance(divisor, Tensor):
        return divisor.masked_fill(divisor == 0, 1)
    return divisor or 1


def _shift(tensors: Callable[..., Any], numbers: Callable[..., Any]) -> Callable[..., Any]:
    def shift(left: Value, right: Value) -> Value:
        if isinstance(left, Tensor) or isinstance(right, Tensor):
            return tensors(left, right)
        return numbers(left, right)

    return shift


_OPERATORS: dict[str, Callable[[Value, Value], Value]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _divide,
    "%": _remainder,
    "&": operator.and_,
    "|": operator.or_,
    "^": operator.xor,
    "<<": _shift(torch.bitwise_left_shift, operator.lshift),
    ">>": _shift(torch.bitwise_right_shift, operator.rshift),
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


def binary(sign: str, left: Value, right: Value) -> Value:
    """Apply an operator of C++.

    Args:
        sign: As in the source.
        left: The first operand.
        right: The second.

    Returns:
        The result; of a comparison, a truth value.
    """
    if sign in ("&&", "||"):
        left, right = truth(left), truth(right)
        if not isinstance(left, Tensor) and not isinstance(right, Tensor):
            return (left and right) if sign == "&&" else (left or right)
        return left & right if sign == "&&" else left | right
    return _OPERATORS[sign](_number_of(left), _number_of(right))


def _on_both(tensors: Callable[..., Any]) -> Callable[..., Any]:
    """A function of torch, for numbers too: they are the same for all threads."""

    def call(*values: Value) -> Value:
        given = [v for v in values if isinstance(v, Tensor)]
        if given:
            as_tensors = [v if isinstance(v, Tensor) else _like(given[0], v) for v in values]
            return tensors(*as_tensors)
        return tensors(*(torch.tensor(v, dtype=torch.float64, device="cpu") for v in values)).item()

    return call


def _like(other: Tensor, value: Value) -> Tensor:
    """A number beside a tensor: of its type, unless it is a float beside integers."""
    kind = other.dtype
    if isinstance(value, float) and not (other.is_floating_point() or other.is_complex()):
        kind = torch.float32
    return torch.full((), value, dtype=kind, device=other.device)


def _floating(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *values: function(*(v if not _is_integer(v) else v.float() for v in values))


def _extreme(tensors: Callable[..., Any], numbers: Callable[..., Any]) -> Callable[..., Any]:
    def call(left: Value, right: Value) -> Value:
        if not isinstance(left, Tensor) and not isinstance(right, Tensor):
            return numbers(left, right)
        return _on_both(tensors)(left, right)

    return call


def _round_half_away(x: Tensor) -> Tensor:
    whole = torch.trunc(x)
    return torch.where((x - whole).abs() >= 0.5, whole + torch.sign(x), whole)


def _absolute(value: Value) -> Value:
    return torch.abs(value) if isinstance(value, Tensor) else abs(value)


_ONE_TENSOR = {
    name: getattr(torch, name)
    for name in (
        *("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh"),
        *("asinh", "acosh", "atanh", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p"),
        *("sqrt", "rsqrt", "floor", "ceil", "trunc", "erf", "erfc", "lgamma", "erfinv"),
    )
}
_NAMED: dict[str, Callable[..., Any]] = {
    **{name: _on_both(_floating(function)) for name, function in _ONE_TENSOR.items()},
    "rint": _on_both(_floating(torch.round)),
    "nearbyint": _on_both(_floating(torch.round)),
    "round": _on_both(_floating(_round_half_away)),
    "pow": _on_both(_floating(torch.pow)),
    "powi": _on_both(_floating(torch.pow)),
    "fmod": _on_both(_floating(torch.fmod)),
    "atan2": _on_both(_floating(torch.atan2)),
    "hypot": _on_both(_floating(torch.hypot)),
    "copysign": _on_both(_floating(torch.copysign)),
    "normcdf": _on_both(_floating(torch.special.ndtr)),
    "fma": lambda a, b, c: binary("+", binary("*", a, b), c),
    "abs": _absolute,
    "fabs": _absolute,
    "min": _extreme(torch.fmin, min),
    "max": _extreme(torch.fmax, max),
    "fmin": _extreme(torch.fmin, min),
    "fmax": _extreme(torch.fmax, max),
    "isnan": _on_both(torch.isnan),
    "isinf": _on_both(torch.isinf),
    "isfinite": _on_both(torch.isfinite),
    "signbit": _on_both(torch.signbit),
    "__fdividef": lambda a, b: binary("/", a, b),
    "__fadd_rn": lambda a, b: binary("+", a, b),
    "__fmul_rn": lambda a, b: binary("*", a, b),
    "__half2float": lambda a: a,
    "__float2half": lambda a: a,
    "__ldg": lambda a: a,
}
_SHORT = ("exp", "log", "log2", "log10", "sin", "cos", "tan", "pow")
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **_NAMED,
    **{f"{name}f": function for name, function in _NAMED.items() if not name.startswith("__")},
    **{f"__{name}f": _NAMED[name] for name in _SHORT},
}
"""Mathematical functions of C++ and CUDA, also in their forms for float."""

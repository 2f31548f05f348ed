"""What is known before the program runs: which way a branch on a fact about CUDA goes."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

from ._names import Fact, Scope, dotted, last_name
from ._packages import by_import

__all__ = ["evaluate", "is_device_text", "is_device_type", "of_name", "truth"]

# What a redirected program is told, whatever the target.
_CALLS: dict[str, Any] = {
    "torch.cuda.is_available": True,
    "torch.cuda.device_count": 1,
    "torch.cuda.get_device_capability": (7, 0),
    "torch.backends.mps.is_available": True,
    "torch.backends.cudnn.is_available": False,
    "torch.backends.cuda.is_built": False,
    "torch.distributed.is_nccl_available": True,
}
_VALUES: dict[str, Any] = {
    "torch.version.cuda": None,
    "torch.version.hip": None,
    "torch.utils.cpp_extension.CUDA_HOME": None,
    "torch.utils.cpp_extension.ROCM_HOME": None,
    "typing.TYPE_CHECKING": False,
}
_OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}


def truth(node: ast.expr, scope: Scope) -> Fact | None:
    """Which way a condition goes.

    Args:
        node: The condition.
        scope: Where it stands.

    Returns:
        True or False with the reason; None if it is not known, or known from constants alone,
        which programs change from outside.
    """
    found = evaluate(node, scope)
    return Fact(bool(found.value), found.why) if found is not None and found.why else None


def evaluate(node: ast.expr, scope: Scope) -> Fact | None:
    """The value of an expression, if it is known.

    Args:
        node: The expression.
        scope: Where it stands.

    Returns:
        The value with the reason, or None.
    """
    try:
        return _evaluate(node, scope)
    except (TypeError, ValueError, IndexError, KeyError, ArithmeticError, AttributeError):
        return None  # such as a comparison that raises when it is run


def _evaluate(node: ast.expr, scope: Scope) -> Fact | None:
    if isinstance(node, ast.Constant):
        return Fact(node.value)
    if isinstance(node, ast.Tuple):
        items = [evaluate(item, scope) for item in node.elts]
        if any(item is None for item in items):
            return None
        return Fact(tuple(i.value for i in items if i), _because(*items))
    if isinstance(node, ast.Name):
        found = scope.find(node.id)
        return found.fact if found is not None and found.fact and found.fact.why else None
    if isinstance(node, ast.Attribute):
        return _value(node, scope)
    if isinstance(node, ast.Call):
        return _call(node, scope)
    if isinstance(node, ast.Subscript):
        return _subscript(node, scope)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inner = evaluate(node.operand, scope)
        return None if inner is None else Fact(not inner.value, inner.why)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = evaluate(node.left, scope), evaluate(node.right, scope)
        if left is None or right is None or not _is_small(left.value, right.value):
            return None
        return Fact(_OPERATORS[type(node.op)](left.value, right.value), _because(left, right))
    if isinstance(node, ast.BoolOp):
        return _bool_op(node, scope)
    if isinstance(node, ast.Compare):
        return _compare(node, scope)
    if isinstance(node, ast.IfExp):
        test = truth(node.test, scope)
        if test is None:
            return None
        chosen = evaluate(node.body if test.value else node.orelse, scope)
        return None if chosen is None else Fact(chosen.value, chosen.why or test.why)
    return None


def _is_small(*values: Any) -> bool:
    """Numbers only: text could be multiplied without end."""
    return all(isinstance(value, (int, float)) and abs(value) < 1e9 for value in values)


def _because(*facts: Fact | None) -> str:
    return next((fact.why for fact in facts if fact is not None and fact.why), "")


def _told(name: str, value: Any, *, called: bool) -> Fact:
    return Fact(value, f"{name}{'()' if called else ''} is {value!r} here")


def of_name(name: str, scope: Scope) -> Fact | None:
    """The value of a dotted name, if it is known."""
    if name not in _VALUES or scope.is_unknown(name):
        return None
    return _told(name, _VALUES[name], called=False)


def _value(node: ast.Attribute, scope: Scope) -> Fact | None:
    name = dotted(node, scope)
    if name is not None:
        return of_name(name, scope)
    owner = node.value
    path = dotted(owner.func, scope) if isinstance(owner, ast.Call) else None
    if path == "torch.cuda.get_device_properties" and node.attr in ("major", "minor"):
        return Fact(7 if node.attr == "major" else 0, "the capability is (7, 0) here")
    return None


def _call(node: ast.Call, scope: Scope) -> Fact | None:
    name = dotted(node.func, scope)
    if name in _CALLS and not scope.is_unknown(name):
        return _told(name, _CALLS[name], called=True)
    if name == "importlib.util.find_spec" and node.args:
        module = evaluate(node.args[0], scope)
        package = by_import(str(module.value)) if module is not None else None
        if package is not None and package.needs == "cuda":
            return Fact(None, f"{package.name} is not there without CUDA")
    if name == "bool" and len(node.args) == 1:
        inner = evaluate(node.args[0], scope)
        return None if inner is None else Fact(bool(inner.value), inner.why)
    return None


def _subscript(node: ast.Subscript, scope: Scope) -> Fact | None:
    owner, index = evaluate(node.value, scope), evaluate(node.slice, scope)
    if owner is None or index is None or not isinstance(owner.value, tuple):
        return None
    return Fact(owner.value[index.value], owner.why)


def _bool_op(node: ast.BoolOp, scope: Scope) -> Fact | None:
    """One false operand makes an `and` false, whatever the others are."""
    decides = isinstance(node.op, ast.Or)
    facts = [truth(value, scope) for value in node.values]
    for fact in facts:
        if fact is not None and fact.value is decides:
            return fact
    if any(fact is None for fact in facts):
        return None
    return Fact(not decides, _because(*facts))


def _compare(node: ast.Compare, scope: Scope) -> Fact | None:
    if len(node.ops) != 1:
        return None
    kind, right_node = type(node.ops[0]), node.comparators[0]
    if is_device_type(node.left) and isinstance(right_node, ast.Constant):
        if right_node.value == "cuda" and kind in (ast.Eq, ast.NotEq):
            return Fact(kind is ast.NotEq, "a device's type is the target's here, never 'cuda'")
        return None
    left, right = evaluate(node.left, scope), evaluate(right_node, scope)
    if left is None or right is None or kind not in _OPERATORS:
        return None
    return Fact(_OPERATORS[kind](left.value, right.value), _because(left, right))


def is_device_type(node: ast.expr) -> bool:
    """Whether an expression reads the type of a device: `x.device.type`, `device.type`."""
    if not (isinstance(node, ast.Attribute) and node.attr == "type"):
        return False
    name = last_name(node.value)
    return name == "dev" or name.endswith("device")


# Owners whose `device` may be a text: options of a program, and what a class was given.
_HOLDERS = frozenset({"self", "cls", "args", "opt", "opts", "cfg", "config", "hparams", "params"})


def is_device_text(node: ast.expr) -> bool:
    """Whether an expression is a tensor's device as a text: `str(x.device)`."""
    if not (isinstance(node, ast.Call) and len(node.args) == 1):
        return False
    device = node.args[0]
    if getattr(node.func, "id", "") != "str" or not isinstance(device, ast.Attribute):
        return False
    return device.attr == "device" and getattr(device.value, "id", "x") not in _HOLDERS

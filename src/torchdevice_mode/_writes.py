"""What a call writes into: its results' places, and what it keeps up to date on the way.

Told by operators' schemas where there are any, by torch's naming rules elsewhere, and by a short
list of functions that write although neither says so.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree

__all__ = ["Writes", "name_of", "writes"]


class Writes(NamedTuple):
    """Tensors that a call writes into.

    Attributes:
        into: Those that are its result: `out=`, and what an in-place call changes.
        aside: Others that it updates, such as running statistics.
    """

    into: list[torch.Tensor]
    aside: list[torch.Tensor]


class _Unsaid(NamedTuple):
    """Arguments that a function updates without a word: where they are, and whether it will."""

    arguments: tuple[tuple[int, str], ...]
    switch: tuple[int, str]
    default: Any


_STATISTICS = ((1, "running_mean"), (2, "running_var"))
_LATER_STATISTICS = ((3, "running_mean"), (4, "running_var"))
_TABLE = ((1, "weight"),)
_UNSAID: dict[Any, _Unsaid] = {
    torch.nn.functional.batch_norm: _Unsaid(_STATISTICS, (5, "training"), False),
    torch.nn.functional.instance_norm: _Unsaid(_STATISTICS, (5, "use_input_stats"), True),
    torch.batch_norm: _Unsaid(_LATER_STATISTICS, (5, "training"), False),
    torch.instance_norm: _Unsaid(_LATER_STATISTICS, (5, "use_input_stats"), False),
    torch.native_batch_norm: _Unsaid(_LATER_STATISTICS, (5, "training"), False),
    # With `max_norm` they scale the rows that they look up.
    torch.nn.functional.embedding: _Unsaid(_TABLE, (3, "max_norm"), None),
    torch.nn.functional.embedding_bag: _Unsaid(_TABLE, (3, "max_norm"), None),
}
_NOT_IN_PLACE = frozenset({"__init__", "__invert__", "__index__", "__int__", "__iter__"})


def writes(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Writes:
    """The tensors that a call writes into.

    Args:
        func: A torch function, or a wrapper of one that `functools.wraps` made.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Returns:
        The tensors themselves, in lists too.
    """
    plain = inspect.unwrap(func)
    into = _tensors(kwargs.get("out"))
    unsaid = _UNSAID.get(_function_of(plain))
    if unsaid is not None:
        switch = _argument(args, kwargs, *unsaid.switch)
        will = unsaid.default if switch is None else switch
        held = [_argument(args, kwargs, *where) for where in unsaid.arguments] if will else []
        return Writes(into, _tensors(held))
    name = name_of(plain)
    if isinstance(plain, torch._ops.OpOverload):
        arguments = _by_schema((plain,))
        in_place = plain._schema.name.endswith("_")
    else:
        arguments = _written_by(plain if isinstance(plain, torch._ops.OpOverloadPacket) else name)
        in_place = _is_in_place(name)
    if in_place:
        first = args[0] if args else kwargs.get("self", kwargs.get("input", kwargs.get("tensor")))
        into += _tensors(first)
    aside = []
    for argument in arguments:
        if argument.is_out:
            into += _tensors(kwargs.get(argument.name)) if argument.name != "out" else []
        elif argument.position or not in_place:
            aside += _tensors(_argument(args, kwargs, argument.position, argument.name))
    return Writes(into, aside)


class _Argument(NamedTuple):
    position: int
    name: str
    is_out: bool


def _function_of(func: Any) -> Any:
    """The function of torch that stands for an operator of `torch.ops.aten`."""
    if isinstance(func, torch._ops.OpOverload):
        func = func.overloadpacket
    if isinstance(func, torch._ops.OpOverloadPacket):
        return getattr(torch, func.__name__, func)
    return func


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str) -> Any:
    return args[position] if position < len(args) else kwargs.get(name)


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _is_in_place(name: str) -> bool:
    """By torch's naming rules: `add_`, `__iadd__`, `__setitem__`, and assigning `x.grad`."""
    if name in ("__setitem__", "__set__"):
        return True
    if name.startswith("__"):
        return name.startswith("__i") and name.endswith("__") and name not in _NOT_IN_PLACE
    return name.endswith("_")


@cache
def _written_by(packet: Any) -> tuple[_Argument, ...]:
    """Written arguments of a packet of operators, or of the one of torch that has this name.

    By name the first is left out: its name says whether it is written, and the schemas of
    TorchScript's lists, which share names with operators, would say otherwise.
    """
    if not isinstance(packet, str):
        return _by_schema(tuple(getattr(packet, name) for name in packet.overloads()))
    found = getattr(torch.ops.aten, packet, None)
    if not isinstance(found, torch._ops.OpOverloadPacket):
        return ()
    return tuple(argument for argument in _written_by(found) if argument.position)


@cache
def _by_schema(overloads: tuple[torch._ops.OpOverload, ...]) -> tuple[_Argument, ...]:
    found = {
        _Argument(position, argument.name, argument.is_out)
        for overload in overloads
        for position, argument in enumerate(overload._schema.arguments)
        if argument.alias_info is not None
        and argument.alias_info.is_write
        and "Tensor" in str(argument.type)
    }
    return tuple(sorted(found))


def name_of(func: Callable[..., Any]) -> str:
    """A torch function's name, as torch's own rules for names have it."""
    name: str = getattr(func, "__name__", type(func).__name__)
    return name

"""One operator on the CPU, for tensors that are elsewhere: copied there, and the results back."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch.utils._pytree import tree_map

from ._context import Context
from ._downcast import brought_back
from ._dtypes import bytes_of
from ._log import warn_once
from ._origins import note_forward, origin

__all__ = ["cpu_generator", "on_cpu"]

# What an operator writes into although its schema does not say so: running statistics.
_UNSAID = {"aten::native_batch_norm": frozenset({3, 4})}
# What the CPU lacks kernels for, and what it computes with instead.
_NARROW_DTYPE = r"not implemented for '(Half|BFloat16)'"
_WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


@cache
def on_cpu(operator: Any) -> Callable[..., Any]:
    """The CPU's version of an operator, to be called below autograd.

    Args:
        operator: An `OpOverload`.

    Returns:
        A function of the redirection, the reason for which the target does not compute it, and
        the positional and keyword arguments; what the operator writes into is the caller's own.
    """
    written = _UNSAID.get(operator._schema.name, frozenset()) | {
        position
        for position, argument in enumerate(operator._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    }
    names = tuple(argument.name for argument in operator._schema.arguments)
    generator = names.index("generator") if "generator" in names else None

    def computed(
        context: Context, reason: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        began = time.perf_counter()
        # Functions of the backward pass run with modes on, which would redirect the CPU.
        with torch._C.DisableTorchFunction():
            call = _Call(context, _name(operator))
            if generator is not None and len(args) > generator:
                drawn_by = cpu_generator(args[generator], context.target)
                args = (*args[:generator], drawn_by, *args[generator + 1 :])
            elif generator is not None:
                drawn_by = cpu_generator(kwargs.get("generator"), context.target)
                kwargs = {**kwargs, "generator": drawn_by}
            result = call.make(operator, names, written, args, kwargs)
        _note(context, operator, call, reason, time.perf_counter() - began)
        return result

    return computed


class _Call:
    """One call on the CPU: what was copied there, and what comes back."""

    def __init__(self, context: Context, name: str) -> None:
        self.context = context
        self.name = name
        self.device = context.target
        self.moved = 0
        self.is_recorded = False
        self._copies: dict[int, torch.Tensor] = {}

    def make(
        self,
        operator: Any,
        names: tuple[str, ...],
        written: frozenset[int],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        new_args = [self._to_cpu(value) for value in args]
        new_kwargs = {name: self._to_cpu(value) for name, value in kwargs.items()}
        if _has_bare_number(operator, new_args):
            # Python is given the number that C++ had wrapped as a tensor; another overload of the
            # operator takes it so, and promotes dtypes alike.
            operator = operator.overloadpacket
        held = [args[i] if i < len(args) else kwargs.get(names[i]) for i in sorted(written)]
        tensors = [t for value in held for t in _tensors(value) if id(t) in self._copies]
        originals = {id(self._copies[id(t)]): t for t in tensors}
        result = _computed(operator, new_args, new_kwargs, set(originals))
        for tensor in tensors:
            self._write_back(tensor)
        return self._back(result, originals)

    def _to_cpu(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            if value.device.type in ("cpu", "meta"):
                return value
            copy = self._copies.get(id(value))
            if copy is None:
                self.is_recorded |= value.requires_grad
                copy = self._copies[id(value)] = value.to("cpu")
                self.moved += bytes_of(value)
            return copy
        if isinstance(value, (list, tuple)):
            return type(value)(self._to_cpu(item) for item in value)
        if isinstance(value, torch.device) and value.type == self.device.type:
            return torch.device("cpu")
        return value

    def _write_back(self, tensor: torch.Tensor) -> None:
        copy = self._copies[id(tensor)]
        if tensor.shape != copy.shape:
            tensor.resize_(copy.shape)
        tensor.copy_(copy)
        self.moved += bytes_of(copy)

    def _back(self, value: Any, originals: dict[int, torch.Tensor]) -> Any:
        if isinstance(value, torch.Tensor):
            original = originals.get(id(value))
            if original is not None:
                return original
            self.moved += bytes_of(value)
            return brought_back(self.context, value, self.name, sys._getframe(2))
        if isinstance(value, (list, tuple)):
            return type(value)(self._back(item, originals) for item in value)
        return value


def cpu_generator(
    given: torch.Generator | None, device: torch.device | None = None
) -> torch.Generator:
    """A generator on the CPU that follows from the state of another's, and moves that on.

    Args:
        given: The other; None for the default one of a device.
        device: That device.

    Returns:
        The CPU's generator; the one that is given where it is on the CPU.
    """
    if given is not None and given.device.type == "cpu":
        return given
    where = device if given is None else given.device
    seed = torch.randint(2**31, (), generator=given, device=where)
    # The plain class: `torch.Generator` is a seam, and would make one of the target's.
    return torch._C.Generator(device="cpu").manual_seed(int(seed.item()))


def _has_bare_number(operator: Any, args: list[Any]) -> bool:
    return any(
        isinstance(value, (bool, int, float, complex)) and str(argument.type) == "Tensor"
        for value, argument in zip(args, operator._schema.arguments, strict=False)
    )


def _computed(operator: Any, args: list[Any], kwargs: dict[str, Any], written: set[int]) -> Any:
    """Call on the CPU; in float32 where the CPU has no kernel for a narrower dtype."""
    try:
        return operator(*args, **kwargs)
    except (NotImplementedError, RuntimeError) as error:
        if not re.search(_NARROW_DTYPE, str(error)):
            raise
    wide: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def widen(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.dtype in _WIDER:
            wider = value.to(_WIDER[value.dtype])
            wide[id(wider)] = value, wider
            return wider
        return value

    result = operator(*tree_map(widen, args), **tree_map(widen, kwargs))
    narrow = next(iter(wide.values()))[0].dtype
    for value, wider in wide.values():
        if id(value) in written:
            value.resize_(wider.shape).copy_(wider)

    def narrowed(value: Any) -> Any:
        if id(value) in wide:
            return wide[id(value)][0]
        is_wide = isinstance(value, torch.Tensor) and value.dtype is torch.float32
        return value.to(narrow) if is_wide else value

    return tree_map(narrowed, result)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _note(context: Context, operator: Any, call: _Call, reason: str, seconds: float) -> None:
    """Count a fallback at the user's line, and warn of the operator once."""
    name = _name(operator)
    place = origin(sys._getframe(1))
    if call.is_recorded and torch.is_grad_enabled():
        note_forward(place)
    context.record_cost("fallback", name, "cpu", reason, place, moved=call.moved, seconds=seconds)
    warn_once(
        "fallback-operator",
        f"{name} runs on the CPU, because {reason}: each call copies its tensors to and fro, so "
        f"replace it where it is called often.",
        key=name,
        place=place,
    )


@cache
def _name(operator: Any) -> str:
    return str(operator._schema.name)

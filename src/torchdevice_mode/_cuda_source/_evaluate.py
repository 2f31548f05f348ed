"""Carries out a function for all threads at once.

`active` says which threads are still in it: True for all, else a tensor of truth values. What a
thread that is not active computes is thrown away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ._functions import FUNCTIONS, Value, binary, cast, choose, negated, truth
from ._lexer import NotTranslatedError
from ._syntax import Function, Node, Type

__all__ = ["Memory", "check", "run"]


class Memory:
    """What a pointer points to: the numbers of a tensor's storage from its first one on."""

    def __init__(self, tensor: Tensor) -> None:
        tensor = tensor.detach()
        count = tensor.untyped_storage().nbytes() // tensor.element_size()
        begin = tensor.storage_offset()
        self.flat = tensor.as_strided((count - begin,), (1,), begin)


def run(
    function: Function,
    arguments: list[Any],
    others: Mapping[str, Function],
    template: torch.dtype | None,
    given: Mapping[str, Value] | None = None,
) -> tuple[Value, dict[str, Value]]:
    """Carry out a function.

    Args:
        function: Which.
        arguments: A value, or `Memory`, for each parameter.
        others: The functions that it may call.
        template: What a template's type stands for.
        given: Further names, such as those of the thread's index.

    Returns:
        What it returns, and its variables at the end.
    """
    frame = _Frame(others, template, dict(given or {}))
    for parameter, argument in zip(function.parameters, arguments, strict=True):
        frame.variables[parameter.name] = argument
        frame.types[parameter.name] = parameter.type
        if not isinstance(argument, Memory) and not parameter.type.reference:
            value = cast(argument, parameter.type.name, template)
            frame.variables[parameter.name] = value
    frame.hidden.append({})
    frame.execute(function.body)
    returned = frame.returned
    if returned is not None and function.type.name != "void":
        returned = cast(returned, function.type.name, template)
    return returned, frame.variables


_THREAD = frozenset({"threadIdx", "blockIdx", "blockDim", "gridDim"})
_CONSTANTS = {
    "INFINITY": float("inf"),
    "NAN": float("nan"),
    "M_PI": 3.141592653589793,
    "FLT_MAX": 3.4028234663852886e38,
    "FLT_EPSILON": 1.1920928955078125e-07,
    "INT_MAX": 2147483647,
    "INT_MIN": -2147483648,
    "true": True,
    "false": False,
}


def check(function: Function, others: Mapping[str, Function]) -> None:
    """Look for calls and names that cannot be carried out, before the first call.

    Args:
        function: What is to be carried out.
        others: The functions that it may call.

    Raises:
        NotTranslatedError: For the first that is found.
    """
    known = {parameter.name for parameter in function.parameters} | set(_CONSTANTS) | _THREAD
    _check(function.body, known, others)


def _check(
    node: Node, known: set[str], others: Mapping[str, Function], above: Node | None = None
) -> None:
    kind, first = node.kind, node.parts[0] if node.parts else None
    outer = above.kind if above is not None else ""
    called = above.parts[0] if above is not None and outer == "call" else ""
    refused = ""
    if kind == "declare":
        known.add(node.parts[1])
    elif kind == "name" and first not in known:
        refused = f"`{first}`"
    elif kind == "call" and first == "atomicAdd" and outer != "expression":
        refused = "the value of `atomicAdd(...)`"
    elif kind == "call" and first not in (*FUNCTIONS, *others, "atomicAdd"):
        refused = f"`{first}(...)`"
    elif kind == "stepped" and outer != "expression":
        refused = "the value of `x++` or `x--`"
    elif kind == "address" and called not in ("atomicAdd", "__ldg"):
        refused = "`&` for an address"
    if refused:
        raise NotTranslatedError(refused, node.line)
    for part in node.parts:
        for one in part if isinstance(part, tuple) and not isinstance(part, Node) else (part,):
            if isinstance(one, Node):
                _check(one, known, others, node)


class _Frame:
    """One call of a function, by all threads."""

    def __init__(
        self, others: Mapping[str, Function], template: torch.dtype | None, given: dict[str, Value]
    ) -> None:
        self.others = others
        self.template = template
        self.given = given
        self.variables: dict[str, Any] = {}
        self.types: dict[str, Type] = {}
        self.active: Value = True
        self.returned: Value = None
        self.exits = 0
        # What names meant outside of the blocks that are open; None for nothing.
        self.hidden: list[dict[str, tuple[Any, Type] | None]] = []

    # --- statements -----------------------------------------------------------------------------

    def execute(self, node: Node) -> None:
        if self.active is not False:
            getattr(self, node.kind)(*node.parts, line=node.line)

    def block(self, *statements: Node, line: int) -> None:
        self.hidden.append({})
        for statement in statements:
            self.execute(statement)
        self._end_of_block()

    def sequence(self, *statements: Node, line: int) -> None:
        for statement in statements:
            self.execute(statement)

    def _end_of_block(self) -> None:
        for name, outer in self.hidden.pop().items():
            if outer is None:
                del self.variables[name], self.types[name]
            else:
                self.variables[name], self.types[name] = outer

    def expression(self, value: Node, line: int) -> None:
        if value.kind == "stepped":
            value = value.parts[0]
        if value.kind == "call" and value.parts[0] == "atomicAdd":
            self._atomic_add(*value.parts[1])
        else:
            self.value(value)

    def declare(self, kind: Type, name: str, value: Node | None, line: int) -> None:
        if name not in self.hidden[-1]:
            known = name in self.variables
            outer = (self.variables[name], self.types[name]) if known else None
            self.hidden[-1][name] = outer
        self.types[name] = kind
        # Without a value it is what happens to be there; 0 is as good as any.
        found = 0 if value is None else self.value(value)
        self.variables[name] = cast(found, kind.name, self.template)

    def return_(self, value: Node | None, line: int) -> None:
        if value is not None:
            found = self.value(value)
            before = found if self.returned is None else self.returned
            self.returned = choose(self.active, found, before)
        self.exits += 1
        self.active = False

    def if_(self, condition: Node, then: Node, other: Node | None, line: int) -> None:
        met = truth(self.value(condition))
        if not isinstance(met, Tensor):
            branch = then if met else other
            if branch is not None:
                self.execute(branch)
            return
        before, exits = self.active, self.exits
        self.active = binary("&&", before, met)
        self.execute(then)
        after = self.active
        self.active = binary("&&", before, negated(met))
        if other is not None:
            self.execute(other)
        self.active = before if exits == self.exits else binary("||", after, self.active)

    def loop(
        self, begin: Node | None, condition: Node | None, step: Node | None, body: Node, line: int
    ) -> None:
        self.hidden.append({})
        if begin is not None:
            self.execute(begin)
        before, exits = self.active, self.exits
        left_already: Value = False  # by the condition, to go on after the loop
        while True:
            met = True if condition is None else truth(self.value(condition))
            left_already = binary("||", left_already, binary("&&", self.active, negated(met)))
            self.active = binary("&&", self.active, met)
            if not (self.active.any().item() if isinstance(self.active, Tensor) else self.active):
                break
            self.execute(body)
            if step is not None:
                self.execute(step)
        self.active = before if exits == self.exits else left_already
        self._end_of_block()

    # --- expressions ----------------------------------------------------------------------------

    def value(self, node: Node) -> Value:
        return getattr(self, node.kind)(*node.parts, line=node.line)

    def number(self, value: float, line: int) -> Value:
        return value

    def name(self, name: str, line: int) -> Value:
        for names in (self.variables, self.given, _CONSTANTS):
            if name in names:
                return names[name]
        raise NotTranslatedError(f"`{name}`", line)

    def member(self, base: Node, name: str, line: int) -> Value:
        if base.kind == "name":
            full = f"{base.parts[0]}.{name}"
            if full in self.given:
                return self.given[full]
        raise NotTranslatedError(f"`.{name}`", line)

    def unary(self, sign: str, operand: Node, line: int) -> Value:
        value = self.value(operand)
        if sign == "!":
            return negated(value)
        if sign == "~":
            return ~value
        return binary("-", 0, value) if sign == "-" and _is_bool(value) else _signed(sign, value)

    def binary(self, sign: str, left: Node, right: Node, line: int) -> Value:
        values = self.value(left), self.value(right)
        if any(isinstance(value, Memory) for value in values):
            raise NotTranslatedError("arithmetic with a pointer", line)
        return binary(sign, *values)

    def ternary(self, condition: Node, then: Node, other: Node, line: int) -> Value:
        met = truth(self.value(condition))
        if not isinstance(met, Tensor):
            return self.value(then if met else other)
        return choose(met, self.value(then), self.value(other))

    def cast(self, kind: Type, operand: Node, line: int) -> Value:
        if kind.pointer:
            raise NotTranslatedError("a cast to a pointer", line)
        return cast(self.value(operand), kind.name, self.template)

    def stepped(self, step: Node, line: int) -> Value:
        raise NotTranslatedError("the value of `x++` or `x--`", line)

    def address(self, operand: Node, line: int) -> Value:
        raise NotTranslatedError("`&` for an address", line)

    def call(self, name: str, arguments: tuple[Node, ...], line: int) -> Value:
        if name == "__ldg":
            (address,) = arguments
            return self.value(address.parts[0])
        values = [self.value(argument) for argument in arguments]
        if name in self.others:
            function = self.others[name]
            if any(p.type.reference for p in function.parameters):
                raise NotTranslatedError(f"a call of `{name}`, which writes its arguments,", line)
            if any(isinstance(value, Memory) for value in values) and self.active is not True:
                raise NotTranslatedError(f"a call of `{name}` with a pointer under `if`", line)
            returned, _ = run(function, values, self.others, self.template, self.given)
            return returned
        if name not in FUNCTIONS:
            raise NotTranslatedError(f"`{name}(...)`", line)
        return FUNCTIONS[name](*values)

    # --- variables and memory -------------------------------------------------------------------

    def assign(self, target: Node, value: Node, line: int) -> Value:
        found = self.value(value)
        if target.kind == "name":
            (name,) = target.parts
            if name not in self.types:
                raise NotTranslatedError(f"an assignment to `{name}`", line)
            found = cast(found, self.types[name].name, self.template)
            before = self.variables.get(name)
            whole = found if before is None else choose(self.active, found, before)
            self.variables[name] = whole
            return whole
        if target.kind != "index":
            raise NotTranslatedError("an assignment to what is no variable", line)
        self._write(target, found, accumulate=False)
        return found

    def index(self, base: Node, at: Node, line: int) -> Value:
        memory, place = self._place(base, at, line)
        if isinstance(self.active, Tensor):
            # The others may stand outside of the memory.
            place = torch.where(self.active, place, 0)
        return _wide(memory.flat[place])

    def _place(self, base: Node, at: Node, line: int) -> tuple[Memory, Value]:
        memory = self.value(base)
        if not isinstance(memory, Memory):
            raise NotTranslatedError("`[...]` of what is no pointer", line)
        place = self.value(at)
        return memory, place.to(torch.int64) if isinstance(place, Tensor) else int(place)

    def _write(self, target: Node, value: Value, *, accumulate: bool) -> None:
        memory, place = self._place(target.parts[0], target.parts[1], target.line)
        flat = memory.flat
        place = _each(place, self.given, flat.device, torch.int64)
        value = _each(value, self.given, flat.device, None)
        if isinstance(self.active, Tensor):
            active = self.active.expand(place.shape)
            place, value = place[active], value.expand(active.shape)[active]
        flat.index_put_((place,), value.to(flat.dtype), accumulate=accumulate)

    def _atomic_add(self, address: Node, value: Node) -> None:
        if address.kind == "address" and address.parts[0].kind == "index":
            self._write(address.parts[0], self.value(value), accumulate=True)
        elif address.kind == "name":
            zero = Node("number", address.line, (0,))
            target = Node("index", address.line, (address, zero))
            self._write(target, self.value(value), accumulate=True)
        else:
            raise NotTranslatedError("`atomicAdd(...)` of such an address", address.line)


def _is_bool(value: Value) -> bool:
    return value.dtype == torch.bool if isinstance(value, Tensor) else isinstance(value, bool)


def _signed(sign: str, value: Value) -> Value:
    return -value if sign == "-" else value


def _wide(value: Tensor) -> Tensor:
    """float16 is computed with as float32, as in C++ code for it."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _each(
    value: Value, given: Mapping[str, Value], device: torch.device, dtype: torch.dtype | None
) -> Tensor:
    """A value of each thread, as a tensor."""
    threads = given["threads"]
    if isinstance(value, Tensor):
        return value.expand(threads)
    kind = dtype
    if kind is None:
        kind = torch.float32 if isinstance(value, float) else torch.int64
    return torch.full((threads,), value, dtype=kind, device=device)

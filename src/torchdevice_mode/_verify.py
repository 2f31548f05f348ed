"""Checks operators of the target against the CPU: some devices have silent errors.

A dispatch mode sees every operator that runs. A sample of them is run once more on the CPU, in
float64 where the operator allows it, and what differs by more than rounding is reported.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from ._context import Context
from ._log import warn_once
from ._origins import origin
from .errors import SettingsError, VerificationError

__all__ = ["Difference", "VerifyMode", "differences", "forget"]

# By dtype: the largest difference that is taken for rounding, relative to the largest value.
TOLERANCES = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
    torch.complex64: 1e-4,
    torch.complex128: 1e-9,
}
# How often the CPU's own rounding another device may be off.
_TIMES_ROUNDING = 16.0
_HIGHER = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}
# What has no result to compare, or one that nobody defines.
_NOTHING_TO_COMPARE = re.compile(
    r"aten::(new_)?empty|aten::resize|aten::set_|aten::_local_scalar|aten::record_stream"
    r"|aten::(_copy_from|_to_copy|copy_|clone|detach|lift|is_|_has|_assert|_async)|^(?!aten::)"
)
# The results depend on the dtype of the arguments, not only on their values.
_IN_SAME_DTYPE = re.compile(
    r"aten::(nextafter|frexp|ldexp|fmod|remainder|floor_divide|_fused|_foreach)"
)


@dataclass(frozen=True, slots=True)
class Difference:
    """What the target computed otherwise than the CPU.

    Attributes:
        operator: Such as `"aten::mm"`.
        file: The program's file that led to the call; empty where that is not known.
        line: The line in it.
        error: The largest difference; relative to the largest value of the CPU's result, or the
            number of different elements where they are no floating-point numbers.
        shapes: Shapes of the tensors among the arguments.
        dtypes: Their dtypes.
    """

    operator: str
    file: str
    line: int
    error: float
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]


_lock = threading.Lock()
# The largest of each operator at each line, so that a program may run for long.
_found: dict[tuple[str, str, int], Difference] = {}


def differences() -> list[Difference]:
    """What was found in this process so far: the largest of each operator and line."""
    with _lock:
        return sorted(_found.values(), key=lambda found: -found.error)


def forget() -> None:
    """Begin anew."""
    with _lock:
        _found.clear()


def check_operator(chosen: str) -> None:
    """Make sure that the setting `verify` names an operator, where it is no share.

    Raises:
        SettingsError: If this torch has none of that name.
    """
    name = chosen.removeprefix("aten::")
    if _is_number(chosen) or hasattr(torch.ops.aten, name):
        return
    from difflib import get_close_matches

    every = (each.partition(".")[0] for each in torch._C._dispatch_get_all_op_names())
    names = {each.removeprefix("aten::") for each in every if each.startswith("aten::")}
    near = get_close_matches(name, sorted(names), n=1)
    hint = f"did you mean {near[0]!r}?" if near else 'give a name such as "aten::mm".'
    raise SettingsError(f"verify={chosen!r} is no operator of this torch: {hint}")


class VerifyMode(TorchDispatchMode):
    """Repeats operators on the CPU and compares.

    Args:
        context: The redirection. Its setting `verify` is the share of calls that are repeated,
            or the name of an operator all of whose calls are; the first call of each operator is
            repeated in any case.
    """

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.context = context
        chosen = context.settings.verify or "0"
        self._name = None if _is_number(chosen) else "aten::" + chosen.removeprefix("aten::")
        self._share = float(chosen) if self._name is None else 0.0
        self._due = 0.0
        self._seen: set[str] = set()

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Dynamo skips every frame under a dispatch mode that does not say this."""
        return True

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not self._is_chosen(func):
            return func(*args, **kwargs)
        repeated = _Repeated.of(func, args, kwargs, self.context.target)
        result = func(*args, **kwargs)
        if repeated is not None:
            error = repeated.error_of([result, *_written(func, args, kwargs)])
            if error:
                self._report(func, error, args, kwargs)
        return result

    def _is_chosen(self, func: Any) -> bool:
        name = func._schema.name
        if self._name is not None:
            return bool(name == self._name)
        self._due += self._share
        if self._due < 1.0 and name in self._seen:
            return False
        self._seen.add(name)
        self._due %= 1.0
        return True

    def _report(
        self, func: Any, error: float, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        name, target = func._schema.name, self.context.target
        frame = origin(sys._getframe(1))
        place = (frame.f_code.co_filename, frame.f_lineno) if frame is not None else ("", 0)
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
        shapes = tuple(tuple(t.shape) for t in tensors)
        found = Difference(name, *place, error, shapes, tuple(t.dtype for t in tensors))
        key = (name, *place)
        with _lock:
            known = _found.get(key)
            if known is None or error > known.error:
                _found[key] = found
        self.context.record_cost("difference", name, target, "the CPU computes otherwise", frame)
        listed = ", ".join(str(list(shape)) for shape in shapes)
        message = (
            f"{name} on {target} differs from the CPU by {error:.2g} of its largest value, given "
            f"tensors of {listed}: compute it on the CPU if that matters."
        )
        if self.context.settings.verify_raise:
            raise VerificationError(message)
        warn_once("verify-difference", message, key=key, place=frame)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# --- the CPU's result ---------------------------------------------------------------------------


@cache
def _can_be_compared(func: Any) -> bool:
    tags = func.tags
    if torch.Tag.nondeterministic_seeded in tags or _NOTHING_TO_COMPARE.match(func._schema.name):
        return False
    # A view computes nothing.
    return not any(
        a.alias_info is not None and not a.alias_info.is_write for a in func._schema.arguments
    )


class _Repeated:
    """A call as the CPU makes it: its results, in float64 where that can be had.

    Args:
        func: The operator.
        call: Positional and keyword arguments, copied to the CPU.
        expected: Results, and the arguments that were written into.
    """

    def __init__(self, func: Any, call: Any, expected: list[Any]) -> None:
        self._func = func
        self._call = call
        self._expected = expected

    @classmethod
    def of(
        cls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], target: torch.device
    ) -> _Repeated | None:
        """Repeat a call that is about to be made; None if the CPU cannot be asked."""
        if not _can_be_compared(func):
            return None
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
        if any(type(t) not in _PLAIN or t.device.type == "meta" for t in tensors):
            return None
        if all(t.device.type != target.type for t in tensors):
            return None
        with torch._C.DisableTorchFunction():
            call = _copied((args, kwargs), {})
            same_dtype = _IN_SAME_DTYPE.match(func._schema.name) or "dtype" in kwargs
            for higher in ({},) if same_dtype else (_HIGHER, {}):
                try:
                    expected = _made(func, _copied(call, higher))
                except Exception:  # no kernel for the dtype, or bad arguments: torch will say
                    continue
                return cls(func, call, expected)
        return None

    def error_of(self, actual: list[Any]) -> float:
        """How far results are off, beyond rounding; 0 if they are not."""
        errors = [_excess(one, other, 0.0) for one, other in _pairs(actual, self._expected)]
        if not any(errors):
            return 0.0
        # Where terms cancel, rounding is all there is. So the CPU's own, in the dtype that was
        # asked for, says how large it may be.
        with torch._C.DisableTorchFunction():
            rounded = _made(self._func, self._call)
        floors = [_distance(one, other) for one, other in _pairs(rounded, self._expected)]
        pairs = zip(_pairs(actual, self._expected), floors, strict=True)
        return max(_excess(one, other, floor) for (one, other), floor in pairs)


_PLAIN = (torch.Tensor, torch.nn.Parameter)


def _made(func: Any, call: Any) -> list[Any]:
    args, kwargs = call
    return [func(*args, **kwargs), *_written(func, args, kwargs)]


def _copied(call: Any, dtypes: Mapping[torch.dtype, torch.dtype]) -> Any:
    """Arguments on the CPU, in other dtypes where they are given; one copy of each tensor."""

    def copy(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            found = copies.get(id(leaf))
            if found is None:
                dtype = dtypes.get(leaf.dtype, leaf.dtype)
                found = leaf.detach().to("cpu").to(dtype, copy=True)
                copies[id(leaf)] = found
            return found
        return torch.device("cpu") if isinstance(leaf, torch.device) else leaf

    copies: dict[int, torch.Tensor] = {}
    return tree_map(copy, call)


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The arguments that an operator writes into."""
    found = []
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[position] if position < len(args) else kwargs.get(argument.name)
            found.append(given)
    return found


# --- comparison ---------------------------------------------------------------------------------


def _pairs(actual: Any, expected: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    left, right = tree_flatten(list(actual))[0], tree_flatten(list(expected))[0]
    for one, other in zip(left, right, strict=True):
        if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
            yield one, other


def _excess(actual: torch.Tensor, expected: torch.Tensor, floor: float) -> float:
    """The distance of two tensors, if it is more than rounding explains; else 0."""
    distance = _distance(actual, expected)
    allowed = max(TOLERANCES.get(actual.dtype, 0.0), _TIMES_ROUNDING * floor)
    return distance if distance > allowed else 0.0


def _distance(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest value expected; 0 if there is none."""
    with torch._C.DisableTorchFunction():
        actual = actual.detach().to("cpu").to_dense()
        expected = expected.detach().to_dense()
        if actual.shape != expected.shape:
            return float("inf")
        if actual.dtype not in TOLERANCES:
            return float((actual != expected.to(actual.dtype)).sum())
        # What overflows in the narrower dtype does so in both.
        overflowed = expected.to(actual.dtype).isinf() & actual.isinf()
        wide = _HIGHER.get(actual.dtype, actual.dtype)
        actual, expected = actual.to(wide), expected.to(wide)
        same = (actual == expected) | (actual.isnan() & expected.isnan()) | overflowed
        if bool(same.all()):
            return 0.0
        finite = expected[expected.isfinite()].abs()
        scale = float(finite.max()) if finite.numel() else 1.0
        difference = (actual - expected).abs()[~same]
        return float(difference.nan_to_num(nan=float("inf")).max()) / (scale or 1.0)

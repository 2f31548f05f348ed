"""Operators that the target has no kernel for: run on the CPU, and the results brought back.

The dispatcher says which operators those are. A kernel is registered for each, under the target's
key, below autograd: forward and backward, `out=` and in-place forms work alike. torch has a
fallback of its own, `PYTORCH_ENABLE_MPS_FALLBACK`, which must be set before torch is imported
and counts nothing; it is not needed.

Results never share memory with the arguments, also where the operator makes a view. Operators
of `c10d`, which talk to other processes, are left alone.
"""

from __future__ import annotations

import re
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.utils._pytree import tree_map

from ._active import current
from ._dtypes import NARROWER
from ._log import user_frame, warn_once

__all__ = ["Kernels", "during_backward", "kernels"]

# Dispatch keys of a target that can lack kernels, and the key that has them.
_KEYS = {"mps": (("MPS", "CPU"), ("SparseMPS", "SparseCPU"))}
_COMPOSITE = (
    "CompositeImplicitAutograd",
    "CompositeExplicitAutograd",
    "CompositeExplicitAutogradNonFunctional",
)
# What an operator writes into although its schema does not say so: running statistics.
_UNSAID = {"aten::native_batch_norm": frozenset({3, 4})}
_COLLECTIVES = ("c10d", "_c10d", "symm_mem")
# Dtypes that the target lacks, and what their values are kept in there.
_NARROW_DTYPE = r"not implemented for '(Half|BFloat16)'"
_WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


class Kernels:
    """The kernels that stand in for missing ones, while redirection is on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._libraries: dict[str, torch.library.Library] = {}
        self._registered: set[tuple[str, str]] = set()
        self._installed: set[str] = set()

    def install(self, device_type: str) -> None:
        """Register a kernel for each operator of torch that the target lacks.

        Takes about 10 microseconds an operator; does nothing for a device that lacks none.

        Args:
            device_type: The target's.
        """
        if device_type not in _KEYS or device_type in self._installed:
            return
        self._installed.add(device_type)
        for key, cpu_key in _KEYS[device_type]:
            self._register(key, (n for n in lacking(key, cpu_key) if n.startswith("aten::")))

    def add(self, name: str, device_type: str) -> bool:
        """Register kernels for one operator, of whatever library, if the target lacks it.

        Args:
            name: With its namespace and without its overload, as torch's error names it.
            device_type: The target's.

        Returns:
            Whether any was registered.
        """
        added = False
        for key, cpu_key in _KEYS.get(device_type, ()):
            wanted = [
                n for n in lacking(key, cpu_key) if n.partition(".")[0] == name.partition(".")[0]
            ]
            added |= self._register(key, wanted)
        return added

    def _register(self, key: str, names: Iterable[str]) -> bool:
        added = False
        with self._lock:
            for name in names:
                if (name, key) in self._registered or name.startswith(_COLLECTIVES):
                    continue
                namespace, _, rest = name.partition("::")
                library = self._libraries.get(namespace)
                if library is None:
                    library = torch.library.Library(namespace, "IMPL")
                    self._libraries[namespace] = library
                library.impl(rest, _kernel(_overload(namespace, rest)), key)
                self._registered.add((name, key))
                added = True
        return added

    def remove(self) -> None:
        """Take all of them back."""
        with self._lock:
            for library in self._libraries.values():
                library._destroy()
            self._libraries.clear()
            self._registered.clear()
            self._installed.clear()


kernels = Kernels()
"""Those of this process: kernels belong to no thread."""


def lacking(key: str, cpu_key: str) -> list[str]:
    """Operators with a kernel for the CPU and none that would serve a key.

    Args:
        key: Dispatch key of the target, such as `"MPS"`.
        cpu_key: Its counterpart on the CPU.

    Returns:
        Names with overloads, such as `"aten::mode.values"`.
    """
    ask = torch._C._dispatch_get_registrations_for_dispatch_key
    served = set(ask(key)).union(*map(ask, _COMPOSITE))
    return [name for name in ask(cpu_key) if name not in served]


def _overload(namespace: str, name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(getattr(torch.ops, namespace), packet), overload or "default")


# --- one call -----------------------------------------------------------------------------------


def _kernel(operator: Any) -> Callable[..., Any]:
    """The kernel of one operator: as the CPU's, for tensors that are elsewhere."""
    written = _UNSAID.get(operator._schema.name, frozenset()) | {
        position
        for position, argument in enumerate(operator._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    }
    names = tuple(argument.name for argument in operator._schema.arguments)
    generator = names.index("generator") if "generator" in names else None

    def run(*args: Any, **kwargs: Any) -> Any:
        context = current()
        if context is None:
            raise NotImplementedError(
                f"The operator '{operator._schema.name}' is not currently implemented for the "
                f"MPS device, and no redirection holds in this thread."
            )
        began = time.perf_counter()
        # Functions of the backward pass run with modes on, which would redirect the CPU.
        with torch._C.DisableTorchFunction():
            call = _Call(context.target)
            if generator is not None and len(args) > generator:
                drawn_by = call.generator(args[generator])
                args = (*args[:generator], drawn_by, *args[generator + 1 :])
            elif generator is not None:
                kwargs = {**kwargs, "generator": call.generator(kwargs.get("generator"))}
            result = call.make(operator, names, written, args, kwargs)
        _note(context, operator, call.moved, time.perf_counter() - began)
        return result

    return run


class _Call:
    """One call on the CPU: what was copied there, and what comes back."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.moved = 0
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

    def generator(self, given: torch.Generator | None) -> torch.Generator:
        """One on the CPU that follows from the state of the target's, and moves it on."""
        if given is not None and given.device.type == "cpu":
            return given
        seed = torch.randint(2**31, (), generator=given, device=self.device)
        # The plain class: `torch.Generator` is a seam, and would make one of the target's.
        return torch._C.Generator(device="cpu").manual_seed(int(seed.item()))

    def _to_cpu(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            if value.device.type in ("cpu", "meta"):
                return value
            copy = self._copies.get(id(value))
            if copy is None:
                copy = self._copies[id(value)] = value.to("cpu")
                self.moved += _bytes(value)
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
        self.moved += _bytes(copy)

    def _back(self, value: Any, originals: dict[int, torch.Tensor]) -> Any:
        if isinstance(value, torch.Tensor):
            original = originals.get(id(value))
            if original is not None:
                return original
            self.moved += _bytes(value)
            return value.to(self.device, NARROWER.get(value.dtype, value.dtype))
        if isinstance(value, (list, tuple)):
            return type(value)(self._back(item, originals) for item in value)
        return value


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


def _bytes(tensor: torch.Tensor) -> int:
    if tensor.layout is torch.strided:
        return tensor.numel() * tensor.element_size()
    return tensor._nnz() * tensor.element_size()


# --- who asked ----------------------------------------------------------------------------------

_backward_calls: list[types.FrameType] = []


@contextmanager
def during_backward(frame: types.FrameType) -> Iterator[None]:
    """Say who called `backward`: the engine's threads have no frame of the program.

    Args:
        frame: The frame that led to the call.
    """
    _backward_calls.append(frame)
    try:
        yield
    finally:
        _backward_calls.remove(frame)


def _note(context: Any, operator: Any, moved: int, seconds: float) -> None:
    """Count a fallback at the user's line, and warn of the operator once."""
    name = _name(operator)
    frame = user_frame(sys._getframe(1))
    if frame is None and _backward_calls:
        frame = user_frame(_backward_calls[-1])
    reason = f"{context.target.type} has no kernel for it"
    context.record_cost("fallback", name, "cpu", reason, frame, moved=moved, seconds=seconds)
    warn_once(
        "fallback-operator",
        f"{name} runs on the CPU, because {reason}: each call copies its tensors to and fro, so "
        f"replace it where it is called often.",
        key=name,
    )


@cache
def _name(operator: Any) -> str:
    return str(operator._schema.name)

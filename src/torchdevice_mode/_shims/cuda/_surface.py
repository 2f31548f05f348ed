"""The table of torch.cuda: what each public name does where CUDA code runs on something else.

A row is written where its name is implemented, by a decorator that says the state and why:

    @emulated("memory_allocated", "the target's own figure")
    def memory_allocated(device: Any = None) -> int: ...

Names are those below `torch.cuda`; `nvtx.mark` is a name of its submodule `torch.cuda.nvtx`. A
name that torch exports from a submodule as well (`torch.cuda.memory.memory_allocated`) needs no
second row. Where no redirection holds, a row's function or class is plain torch's, also for
those who imported it while one held.
"""

from __future__ import annotations

import enum
import functools
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
import torch.cuda

from ..._active import current
from ..._context import Context
from ...errors import UnsupportedByTargetError

__all__ = [
    "SURFACE",
    "Row",
    "State",
    "Trace",
    "context",
    "emulated",
    "end_graph",
    "mapped",
    "native",
    "plain",
    "redirection",
    "stubbed",
    "target",
    "unsupported",
]

_F = TypeVar("_F", bound=Callable[..., Any])
_ABSENT = object()


class State(enum.Enum):
    """How a name of CUDA's surface is answered on another device."""

    NATIVE = "native"
    """Unchanged is right."""
    MAPPED = "mapped"
    """The target has a counterpart, and that is called."""
    EMULATED = "emulated"
    """The behaviour is provided here."""
    STUBBED = "stubbed"
    """A harmless no-op, counted in the ledger."""
    UNSUPPORTED = "unsupported"
    """Raises `UnsupportedByTargetError`."""


class Trace(enum.Enum):
    """What `torch.compile` makes of a call."""

    INLINE = "inline"
    """Traced like any Python function."""
    CONSTANT = "constant"
    """Called once while tracing; the result is a constant of the compiled code."""
    BREAK = "break"
    """Ends the graph, as torch's own does: the call is made each time."""


class Row(NamedTuple):
    """One name and its answer.

    Attributes:
        name: Dotted name below `torch.cuda`.
        state: How it is answered.
        reason: Why so, in one line.
        answer: What stands in the name's place; None for `NATIVE`. A function of no arguments
            that makes it anew at each access if `computed`.
        computed: Whether the name is a value that changes, as `default_generators` is.
    """

    name: str
    state: State
    reason: str
    answer: Any = None
    computed: bool = False


SURFACE: dict[str, Row] = {}
"""Every row, by name."""


def redirection() -> Context | None:
    """The redirection that answers for torch.cuda here; None where plain torch does."""
    context = current()
    if context is None or context.cuda_type.type == "cuda":
        return None
    return context


def context() -> Context:
    """The redirection that holds. Rows call this: they run only where one does."""
    found = redirection()
    assert found is not None, "a row of torch.cuda was called outside of redirection"
    return found


def target() -> torch.device:
    """The device that stands for CUDA."""
    return context().cuda_type


def plain(name: str) -> Any:
    """What plain torch has under a name below `torch.cuda`; None if it has nothing."""
    path, _, attribute = name.rpartition(".")
    module = sys.modules.get(f"torch.cuda.{path}" if path else "torch.cuda")
    return None if module is None else vars(module).get(attribute)


def _add(row: Row) -> None:
    if row.name in SURFACE:
        raise ValueError(f"two rows for torch.cuda.{row.name}")
    SURFACE[row.name] = row


def native(*names: str, reason: str) -> None:
    """Say that names need no answer of ours.

    Args:
        *names: Names below `torch.cuda`.
        reason: Why plain torch's own is right.
    """
    for name in names:
        _add(Row(name, State.NATIVE, reason))


def _decorator(
    state: State, name: str, reason: str, *, computed: bool = False, trace: Trace = Trace.INLINE
) -> Callable[[_F], _F]:
    def decorate(answer: _F) -> _F:
        value: Any = answer
        if isinstance(answer, types.FunctionType) and not computed:
            value = _falling_back(name, answer, trace)
        _add(Row(name, state, reason, value, computed))
        return answer

    return decorate


def _falling_back(name: str, answer: Callable[..., Any], trace: Trace) -> Callable[..., Any]:
    """The answer under redirection, else plain torch's function: some keep what they imported."""
    original = plain(name)

    @functools.wraps(answer if original is None else original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if redirection() is None and original is not None:
            return original(*args, **kwargs)
        return answer(*args, **kwargs)

    # What `assume_constant_result` and `disable` set, without importing Dynamo for it.
    if trace is Trace.CONSTANT:
        call._dynamo_marked_constant = True  # type: ignore[attr-defined]
    elif trace is Trace.BREAK:
        call._torchdynamo_disable = True  # type: ignore[attr-defined]
        call._torchdynamo_disable_msg = f"torch.cuda.{name} acts at run time"  # type: ignore[attr-defined]
    return call


def end_graph(what: str) -> None:
    """Let Dynamo end its graph, if it is Dynamo that called the function that calls this.

    Dynamo knows streams, events and tensor types of CUDA by their classes, and makes code of
    them that only CUDA can run.
    """
    caller = sys._getframe(2).f_globals.get("__name__") or ""
    if caller.startswith("torch._dynamo"):
        from torch._dynamo.exc import unimplemented

        unimplemented(
            gb_type="torch.cuda on another device",
            context=what,
            explanation=f"{what} is emulated by torchdevice and is not traced.",
            hints=[],
        )


def mapped(name: str, reason: str, *, trace: Trace = Trace.INLINE) -> Callable[[_F], _F]:
    """Decorate the function or class that calls the target's counterpart of a name."""
    return _decorator(State.MAPPED, name, reason, trace=trace)


def emulated(
    name: str, reason: str, *, computed: bool = False, trace: Trace = Trace.INLINE
) -> Callable[[_F], _F]:
    """Decorate the function or class that provides a name's behaviour."""
    return _decorator(State.EMULATED, name, reason, computed=computed, trace=trace)


def stubbed(name: str, reason: str, *, trace: Trace = Trace.CONSTANT) -> Callable[[_F], _F]:
    """Decorate a harmless function that stands for a name; its calls are counted."""

    def decorate(answer: _F) -> _F:
        @functools.wraps(answer)
        def counted(*args: Any, **kwargs: Any) -> Any:
            context().record("stub", f"torch.cuda.{name}", "nothing", reason, sys._getframe(1))
            return answer(*args, **kwargs)

        _decorator(State.STUBBED, name, reason, trace=trace)(counted)
        return answer

    return decorate


def unsupported(*names: str, reason: str, instead: str) -> None:
    """Say that names have no meaning on another device.

    Args:
        *names: Names below `torch.cuda`.
        reason: Why not, as the end of a sentence.
        instead: What the user can do, as an imperative.
    """
    for name in names:
        original = plain(name)
        refuse = refusal(name, reason, instead)
        if isinstance(original, type):
            _add(Row(name, State.UNSUPPORTED, reason, _refusing_class(original, refuse)))
        else:
            _decorator(State.UNSUPPORTED, name, reason)(refuse)


def refusal(name: str, reason: str, instead: str) -> Callable[..., Any]:
    """A function that raises the error of an unsupported name."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise UnsupportedByTargetError(
            f"torch.cuda.{name} does not work on {target()}, because {reason}: {instead}."
        )

    refuse.__name__ = refuse.__qualname__ = name.rpartition(".")[2]
    return refuse


def _refusing_class(original: type, refuse: Callable[..., Any]) -> type:
    """A stand-in that cannot be instantiated under redirection, and is the original otherwise."""

    def new(cls: type, *args: Any, **kwargs: Any) -> Any:
        if redirection() is None:
            return original(*args, **kwargs)
        return refuse()

    body = {"__new__": new, "__doc__": original.__doc__, "__module__": original.__module__}
    return StandIn(original.__name__, (), {**body, "_original": original})


class StandIn(type):
    """Metaclass of classes that stand for one of torch's: its instances are instances of both."""

    _original: type

    def __instancecheck__(cls, instance: object) -> bool:
        original = cls.__dict__.get("_original")
        return type.__instancecheck__(cls, instance) or (
            original is not None and isinstance(instance, original)
        )

    def __subclasscheck__(cls, subclass: type) -> bool:
        original = cls.__dict__.get("_original")
        return type.__subclasscheck__(cls, subclass) or (
            original is not None and issubclass(subclass, original)
        )

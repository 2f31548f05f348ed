"""The table of a device's surface: what each public name of it does on another device.

A `Surface` is one module of torch, such as `torch.cuda`, with what is below it. A row is written
where its name is implemented, by a decorator that says the state and why:

    CUDA = Surface("torch.cuda", "cuda")

    @CUDA.emulated("memory_allocated", "the target's own figure")
    def memory_allocated(device: Any = None) -> int: ...

Names are those below the module; `nvtx.mark` is a name of the submodule `torch.cuda.nvtx`. A
name that a submodule exports as well (`torch.cuda.memory.memory_allocated`) needs no second row.
Where no redirection holds, a row's function or class is plain torch's, also for those who
imported it while one held.
"""

from __future__ import annotations

import enum
import functools
import importlib
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch.compiler import is_compiling

from .._active import current
from .._context import Context
from .._ledger import Event, event
from .._log import is_program_frame
from ..errors import UnsupportedByTargetError

__all__ = ["Row", "StandIn", "State", "Surface", "Trace", "end_graph"]

_F = TypeVar("_F", bound=Callable[..., Any])


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
        name: Dotted name below the surface's module.
        state: How it is answered.
        reason: Why so, in one line.
        answer: What stands in the name's place; None where plain torch's own does. A function of
            no arguments that makes it anew at each access if `computed`.
        computed: Whether the name is a value that changes, as `default_generators` is.
    """

    name: str
    state: State
    reason: str
    answer: Any = None
    computed: bool = False


class Surface:
    """The rows of one module of torch and of what is below it.

    Args:
        root: The module, such as `"torch.cuda"`.
        device_type: The type of device that it is about.
        later: Submodules and names whose rows are in a file that is imported when one of them is
            first used, with that file: enabling is quicker without.
        added: Names that torch's C++ adds to the module when it starts the device. Any other
            name that this torch lacks, it lacks under redirection too.
    """

    def __init__(
        self,
        root: str,
        device_type: str,
        *,
        added: frozenset[str] = frozenset(),
        later: Mapping[str, str] | None = None,
    ) -> None:
        self.root = root
        self.device_type = device_type
        self.added = added
        self.later = later or {}
        self.known: dict[str, Row] = {}
        self._events: dict[tuple[str, int], Event] = {}

    @property
    def rows(self) -> dict[str, Row]:
        """Every row, by name, those of submodules that are answered later too."""
        for module in self.later.values():
            importlib.import_module(module)
        return dict(sorted(self.known.items()))

    def row(self, name: str) -> Row | None:
        """The row of a name; imports the file that holds it where that is put off."""
        module = self.later.get(name) or self.later.get(name.rpartition(".")[0])
        if module is not None:
            importlib.import_module(module)
        found = self.known.get(name)
        exported = name.rpartition(".")[2]
        if found is None and self.plain(name) is self.plain(exported):
            found = self.known.get(exported)  # the root has the row
        return found

    # --- who answers ----------------------------------------------------------------------------

    def redirection(self) -> Context | None:
        """The redirection that answers here; None where plain torch does."""
        context = current()
        if context is None or context.stands_for[self.device_type].type == self.device_type:
            return None
        return context

    def context(self) -> Context:
        """The redirection that holds. Rows call this: they run only where one does."""
        found = self.redirection()
        assert found is not None, f"a row of {self.root} was called outside of redirection"
        return found

    def target(self) -> torch.device:
        """The device that stands for the surface's."""
        return self.context().stands_for[self.device_type]

    def plain(self, name: str) -> Any:
        """What plain torch has under a name below the module; None if it has nothing."""
        path, _, attribute = name.rpartition(".")
        module = sys.modules.get(f"{self.root}.{path}" if path else self.root)
        return None if module is None else held_by(module).get(attribute)

    # --- what is counted ------------------------------------------------------------------------

    def is_counted(self, state: State, name: str) -> bool:
        """Whether it is counted that a program uses a name of one device.

        `torch.accelerator` is for any; what waits is counted where it waits, with its time; what is
        stubbed has a count of its own.
        """
        return (
            self.device_type in ("cuda", "mps")
            and state in (State.EMULATED, State.MAPPED)
            and not name.rpartition(".")[2].startswith("_")
            and name != "synchronize"
        )

    def note_call(self, holding: Context, name: str, reason: str, frame: types.FrameType) -> None:
        """Count that the program itself, and not torch or a package, uses a name."""
        what = self._events.get((name, holding.number))
        if what is None:
            given = str(holding.stands_for[self.device_type])
            what = event("answer", f"{self.root}.{name}", given, reason)
            self._events[name, holding.number] = what
        if not holding.ledger.count_again(frame, what) and is_program_frame(frame):
            holding.record_event(what, frame)

    # --- rows -----------------------------------------------------------------------------------

    def native(self, *names: str, reason: str) -> None:
        """Say that names need no answer of ours.

        Args:
            *names: Names below the module.
            reason: Why plain torch's own is right.
        """
        for name in names:
            self._add(Row(name, State.NATIVE, reason))

    def mapped(self, name: str, reason: str, *, trace: Trace = Trace.INLINE) -> Callable[[_F], _F]:
        """Decorate the function or class that calls the target's counterpart of a name."""
        return self._decorator(State.MAPPED, name, reason, trace=trace)

    def emulated(
        self, name: str, reason: str, *, computed: bool = False, trace: Trace = Trace.INLINE
    ) -> Callable[[_F], _F]:
        """Decorate the function or class that provides a name's behaviour."""
        return self._decorator(State.EMULATED, name, reason, computed=computed, trace=trace)

    def stubbed(
        self, name: str, reason: str, *, trace: Trace = Trace.CONSTANT
    ) -> Callable[[_F], _F]:
        """Decorate a harmless function that stands for a name; its calls are counted."""

        def decorate(answer: _F) -> _F:
            asked = f"{self.root}.{name}"

            @functools.wraps(answer)
            def counted(*args: Any, **kwargs: Any) -> Any:
                self.context().record("stub", asked, "nothing", reason, sys._getframe(1))
                return answer(*args, **kwargs)

            self._decorator(State.STUBBED, name, reason, trace=trace)(counted)
            return answer

        return decorate

    def unsupported(self, *names: str, reason: str, instead: str) -> None:
        """Say that names have no meaning on another device.

        Args:
            *names: Names below the module.
            reason: Why not, as the end of a sentence.
            instead: What the user can do, as an imperative.
        """
        for name in names:
            original = self.plain(name)
            refuse = self.refusal(name, reason, instead)
            if isinstance(original, type):
                answer = self._refusing_class(original, refuse)
                self._add(Row(name, State.UNSUPPORTED, reason, answer))
            else:
                self._decorator(State.UNSUPPORTED, name, reason)(refuse)

    def refusal(self, name: str, reason: str, instead: str) -> Callable[..., Any]:
        """A function that raises the error of an unsupported name."""

        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise UnsupportedByTargetError(
                f"{self.root}.{name} does not work on {self.target()}, because {reason}: {instead}."
            )

        refuse.__name__ = refuse.__qualname__ = name.rpartition(".")[2]
        return refuse

    # --- how rows are made ----------------------------------------------------------------------

    def _add(self, row: Row) -> None:
        if row.name in self.known:
            raise ValueError(f"two rows for {self.root}.{row.name}")
        self.known[row.name] = row

    def _decorator(
        self,
        state: State,
        name: str,
        reason: str,
        *,
        computed: bool = False,
        trace: Trace = Trace.INLINE,
    ) -> Callable[[_F], _F]:
        def decorate(answer: _F) -> _F:
            value: Any = answer
            if isinstance(answer, types.FunctionType) and not computed:
                is_counted = self.is_counted(state, name)
                value = self._falling_back(name, answer, reason, trace, is_counted=is_counted)
            self._add(Row(name, state, reason, value, computed))
            return answer

        return decorate

    def _falling_back(
        self,
        name: str,
        answer: Callable[..., Any],
        reason: str,
        trace: Trace,
        *,
        is_counted: bool,
    ) -> Callable[..., Any]:
        """The answer under redirection, else plain torch's: some keep what they imported."""
        original = self.plain(name)
        redirection = self.redirection
        note = self.note_call if is_counted else None

        @functools.wraps(answer if original is None else original)
        def call(*args: Any, **kwargs: Any) -> Any:
            holding = redirection()
            if holding is None and original is not None:
                return original(*args, **kwargs)
            if note is not None and holding is not None and not is_compiling():
                note(holding, name, reason, sys._getframe(1))
            return answer(*args, **kwargs)

        if not isinstance(original, types.FunctionType):
            # A graph names a function of torch by its module and name, and finds it there again;
            # one that torch takes from C++ has names of C++.
            path, _, call.__name__ = name.rpartition(".")
            call.__module__ = f"{self.root}.{path}" if path else self.root
            call.__qualname__ = call.__name__
        # What `assume_constant_result` and `disable` set, without importing Dynamo for it.
        if trace is Trace.CONSTANT:
            call._dynamo_marked_constant = True  # type: ignore[attr-defined]
        elif trace is Trace.BREAK:
            call._torchdynamo_disable = True  # type: ignore[attr-defined]
            message = f"{self.root}.{name} acts at run time"
            call._torchdynamo_disable_msg = message  # type: ignore[attr-defined]
        return call

    def _refusing_class(self, original: type, refuse: Callable[..., Any]) -> type:
        """A stand-in that cannot be instantiated under redirection, else the original."""

        def new(cls: type, *args: Any, **kwargs: Any) -> Any:
            if self.redirection() is None:
                return original(*args, **kwargs)
            return refuse()

        body = {"__new__": new, "__doc__": original.__doc__, "__module__": original.__module__}
        return StandIn(original.__name__, (), {**body, "_original": original})


def held_by(module: types.ModuleType) -> dict[str, Any]:
    """A module's own names; of a module with properties (`torch.backends.cudnn`), those below."""
    return {**vars(module.m), **vars(module)} if hasattr(module, "m") else vars(module)


def end_graph(what: str, part: str = "torch._dynamo") -> None:
    """Let Dynamo end its graph, if it is Dynamo that called the function that calls this.

    Dynamo knows streams, events and tensor types of CUDA by their classes, and makes code of
    them that only CUDA can run.

    Args:
        what: The name that cannot be traced.
        part: The module of Dynamo that it must be, with what is below it.
    """
    caller = sys._getframe(2).f_globals.get("__name__") or ""
    if caller.startswith(part):
        from torch._dynamo.exc import unimplemented

        unimplemented(
            gb_type="torch.cuda on another device",
            context=what,
            explanation=f"{what} is emulated by torchdevice and is not traced.",
            hints=[],
        )


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

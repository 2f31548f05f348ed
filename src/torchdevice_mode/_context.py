"""What one redirection knows: machine, settings, target, ledger, and decisions already made.

Rules, shims and recoveries are given a context; none of them reads global state. Decisions are
cached by request, since a program names few devices and names them often.
"""

from __future__ import annotations

import logging
import threading
import types
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple, NoReturn

import torch
from torch.compiler import is_compiling

from . import _override
from ._caller import asked_by_torch, is_compiler, only_compares, reads_memory
from ._kept import Kept
from ._ledger import Event, Ledger, Place, event
from ._log import is_library_frame, log_at, logger, user_frame
from ._machine import Machine
from ._policy import Decision, choose_target, decide
from ._settings import Settings
from ._spec import DeviceSpec, parse
from ._traced import traced_frame

__all__ = ["Context", "Resolution", "after_fork", "by_number", "is_lost", "refuse_lost"]


_numbers: dict[tuple[Machine, Settings], int] = {}
_by_number: dict[int, Context] = {}
_all: weakref.WeakSet[Context] = weakref.WeakSet()
# Types of devices that this process lost, being a fork of one that used them.
_lost: set[str] = set()


class Resolution(NamedTuple):
    """A decision in torch's terms.

    Attributes:
        decision: The policy's decision.
        device: The device to use, or None to hand the request to torch as it came.
        redirected: `decision.redirected`, at hand for the hot path.
        event: A redirection as the ledger counts it.
    """

    decision: Decision
    device: torch.device | None
    redirected: bool
    event: Event


class _Profiled(threading.local):
    """What the profile must know of the thread that it times.

    Attributes:
        latest: The operator that fell back last.
        seconds: What all of them took.
        paused: How many blocks have begun whose operators belong to a fallback.
    """

    latest = ""
    seconds = 0.0
    paused = 0


class Context:
    """One redirection's facts and caches. Shared by threads; immutable but for the caches.

    Args:
        machine: What the machine has.
        settings: What the user chose.
        ledger: Where events are counted.

    Raises:
        TargetError: If the target asked for is not on this machine.
    """

    def __init__(self, machine: Machine, settings: Settings, ledger: Ledger) -> None:
        self.machine = machine
        self.settings = settings
        self.ledger = ledger
        # Dynamo can hand a number, but no object, to a function that it runs while it traces.
        # Contexts that decide alike have the same, so that code which was compiled under one is
        # not compiled again under the next.
        self.number = _numbers.setdefault((machine, settings), len(_numbers))
        _by_number.setdefault(self.number, self)
        # Set by the session: the mode that carries this out, and how often it is entered.
        self.mode: Any = None
        self.open_in_child: Any = None
        self.variables_for_children: Any = None
        self.tell_parent: Any = None
        self.alive = 0
        # What is done when the last of those who entered it leaves.
        self.at_end = ExitStack()
        self.profiled = _Profiled()
        self.kept = Kept()
        # Where the program calls `backward`, and the target is known to refuse nothing of it.
        self.backward_lines: set[tuple[types.CodeType, int] | None] = set()
        # Where stray operands were adopted, and by which functions.
        self.adopting_lines: set[tuple[types.CodeType, int, str]] = set()
        self._traced: set[tuple[str, int, Event]] = set()
        # Two caches, because the override changes the answers; the override's state is the index.
        self._caches: tuple[dict[Any, Resolution], dict[Any, Resolution]] = ({}, {})
        self.target_spec, self.target_reason = choose_target(machine, settings)
        self.target = to_torch(self.target_spec)
        # The target's type where it has no float64 and no complex128; else an empty string.
        self.lacks_float64 = (
            self.target.type if self.target.type in machine.float64_unsupported else ""
        )
        # What stands for a type that programs are written for: a tensor of it is "a CUDA tensor".
        self.stands_for = {
            name: self._decide(name, _override.active()).device or torch.device(name)
            for name in ("cuda", "mps")
        }
        self.cuda_type = self.stands_for["cuda"]
        _all.add(self)

    def resolve(self, request: Any, to_use: bool = True) -> Resolution:
        """Decide a hashable request, from the cache where it was decided before.

        Raises:
            RuntimeError: If the device is to be used, and this is a fork of a process that did.
        """
        overridden = _override.active()
        # `True == 1`, and torch refuses booleans, so the type belongs to the key.
        key = (request.__class__, request)
        cache = self._caches[overridden]
        found = cache.get(key)
        if found is None:
            found = self._decide(request, overridden or self.target.type in _lost)
            asked, reason = found.event.asked, found.decision.reason
            logger.debug("%s -> %s (%s)", asked, found.device or "unchanged", reason)
            if (found.decision.device or parse(request)).type not in _lost:
                cache[key] = found
            elif to_use:
                refuse_lost(request)
        if found.decision.toggles_override:
            state = _override.toggle()
            logger.info("cpu:-1 turned the CPU override %s", "on" if state else "off")
        return found

    def _decide(self, request: Any, overridden: bool) -> Resolution:
        decision = decide(request, self.machine, self.settings, overridden)
        device = None if decision.device is None else to_torch(decision.device)
        asked = "no device" if request is None else str(request)
        redirection = event("redirection", asked, str(device), decision.reason)
        return Resolution(decision, device, decision.redirected, redirection)

    def device_for(self, request: Any, frame: types.FrameType | None) -> torch.device | None:
        """The device that replaces a request, or None to leave the request to torch.

        Args:
            request: The request as the program gave it; None for no device.
            frame: The frame that asked, or None where that cannot be known (the user then).

        Returns:
            The device to put in the request's place; None to change nothing.

        Raises:
            TypeError: If the request is not hashable, so no device in any form.
        """
        if is_compiling():
            return _device_while_compiling(self.number, request)
        resolution = self.resolve(request)
        if not resolution.redirected:
            return resolution.device
        return self.granted(resolution, request, frame)

    def granted(
        self, resolution: Resolution, request: Any, frame: types.FrameType | None
    ) -> torch.device | None:
        """The device of a redirection, counted; None where torch asks for itself."""
        if frame is not None and is_library_frame(frame):
            if not resolution.decision.yields_to_torch:
                if only_compares(frame):
                    return None
            elif asked_by_torch(frame, absent=request is None) or reads_memory(frame):
                return None
            if is_compiler(frame):
                return resolution.device
        self._count(resolution.event, frame)
        return resolution.device

    def record(
        self,
        kind: str,
        asked: str,
        given: object,
        reason: str,
        frame: types.FrameType | None,
    ) -> None:
        """Count an event at the user's line, and log it there the first time."""
        self.record_event(event(kind, asked, str(given), reason), frame)

    def record_event(self, what: Event, frame: types.FrameType | None) -> None:
        """Count an event at the user's line, and log it there the first time."""
        self._count(what, frame)

    def add_cost(
        self, request: Any, frame: types.FrameType | None, *, moved: int, seconds: float
    ) -> None:
        """Say what a redirection cost that was counted just now.

        Args:
            request: The request as the program gave it.
            frame: The frame that asked; None while compiling.
            moved: Bytes that were copied for it.
            seconds: Time that it took.
        """
        found = self._caches[_override.active()].get((request.__class__, request))
        if found is None or not found.redirected or frame is None:
            return
        # Torch's own request was not counted.
        with suppress(KeyError, AttributeError):
            user = user_frame(frame)
            self.ledger.add_cost(user, found.event, moved=moved, seconds=seconds)

    def record_cost(
        self,
        kind: str,
        asked: str,
        given: object,
        reason: str,
        frame: types.FrameType | Place | None,
        *,
        moved: int = 0,
        seconds: float = 0.0,
    ) -> int:
        """Count an event at a place that is known to be the program's, and what it cost.

        Args:
            kind: As of `Site`, like the next three.
            asked: What the program asked for.
            given: What it got.
            reason: Why.
            frame: The program's frame, or where that stood.
            moved: Bytes that were copied for it.
            seconds: Time that it took.

        Returns:
            How often this happened there before, in this thread, and now.
        """
        if kind == "fallback":
            self.profiled.latest = asked
            self.profiled.seconds += seconds
        what = event(kind, asked, str(given), reason)
        times = self.ledger.count_cost(frame, what, moved=moved, seconds=seconds)
        self._log_first(times == 1, frame, what)
        return times

    @contextmanager
    def unprofiled(self) -> Iterator[None]:
        """A block whose operators are part of a fallback, which is timed as a whole."""
        self.profiled.paused += 1
        try:
            yield
        finally:
            self.profiled.paused -= 1

    def _count(self, what: Event, frame: types.FrameType | None) -> None:
        user = user_frame(frame)
        self._log_first(self.ledger.count(user, what), user, what)

    def count_traced(self, what: Event) -> None:
        """Count an event at the line that Dynamo traces, once: it may trace a line many times."""
        user = user_frame(traced_frame())
        if user is None:
            return
        line = (user.f_code.co_filename, user.f_lineno, what)
        if line not in self._traced:
            self._traced.add(line)
            self._count(what, user)

    def _log_first(self, first: bool, user: types.FrameType | Place | None, what: Event) -> None:
        if not first or user is None or not logger.isEnabledFor(logging.INFO):
            return
        # Each thread has a first time, and the line is one.
        if self.ledger.is_first(user, what):
            log_at(user, f"{what.asked} -> {what.given} ({what.reason})")


def by_number(number: int) -> Context | None:
    """A context that decides as that of this number does; None for a number that none has."""
    return _by_number.get(number)


def _device_while_compiling(number: int, request: Any) -> torch.device | None:
    """`Context.device_for` as Dynamo runs it: once, while it traces; the graph has the answer.

    Who asks is not looked at then: the user is assumed.
    """
    context = _by_number[number]
    resolution = context.resolve(request)
    if resolution.redirected:
        context.count_traced(resolution.event)
    return resolution.device


# What `torch.compiler.assume_constant_result` sets, without importing Dynamo for it: a second.
_device_while_compiling._dynamo_marked_constant = True  # type: ignore[attr-defined]


def refuse_lost(request: Any) -> NoReturn:
    """Refuse a device that this forked process has lost to its parent.

    Raises:
        RuntimeError: As CUDA does; MPS would hang.
    """
    # A `torch.device` says where CUDA went, not what the program wrote.
    name = "MPS" if isinstance(request, str) and parse(request).type == "mps" else "CUDA"
    raise RuntimeError(
        f"Cannot re-initialize {name} in forked subprocess. To use {name} with "
        "multiprocessing, you must use the 'spawn' start method"
    )


def after_fork() -> None:
    """Find out, in a forked process, which devices it cannot use as its parent did."""
    for context in list(_all):
        kind = context.target.type
        if kind not in ("cpu", "meta") and is_lost(kind):
            _lost.add(kind)
    for context in list(_all):
        for cache in context._caches if _lost else ():
            cache.clear()


def is_lost(device_type: str) -> bool:
    """Whether torch says that this process is a fork of one that used the device."""
    ask = getattr(getattr(torch, device_type, None), "_is_in_bad_fork", None)
    return ask is not None and bool(ask())


def to_torch(spec: DeviceSpec) -> torch.device:
    """The `torch.device` of a spec, made past every mode: it is an answer, not a request."""
    with torch._C.DisableTorchFunction():
        return torch.device(str(spec))


def is_accelerator_request(request: Any) -> bool:
    """Whether a request, in any form, names an accelerator."""
    return parse(request).is_accelerator

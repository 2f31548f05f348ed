"""`torch.mps.Event` on another device: CUDA's events there, the clock elsewhere.

They measure real time and never hang: what is timed is waited for first.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import torch

from ..cuda._device import synchronize_target
from ._surface import StandIn, emulated, plain, redirection, target

__all__ = ["Event"]

_PlainEvent = plain("Event")
_numbers = itertools.count(1)


@emulated("Event", "CUDA's event on CUDA; else the clock, read after waiting for the target")
class Event(metaclass=StandIn):
    """An event of one stream, as Metal has it."""

    _original = _PlainEvent

    def __new__(cls, enable_timing: bool = False) -> Any:
        if redirection() is None:
            return _PlainEvent(enable_timing)
        return object.__new__(cls)

    def __init__(self, enable_timing: bool = False) -> None:
        self._timing = bool(enable_timing)
        self._number = next(_numbers)
        self._device = target()
        self._time_ns: int | None = None
        self._recorded = False
        is_cuda = self._device.type == "cuda"
        self._event = torch.cuda.Event(enable_timing=self._timing) if is_cuda else None

    def record(self) -> None:
        """Mark this moment in the queue."""
        self._recorded = True
        if self._event is not None:
            self._event.record()
        elif self._timing:
            synchronize_target(self._device, "torch.mps.Event.record")
            self._time_ns = time.perf_counter_ns()

    def wait(self) -> None:
        """Later work comes after the event."""
        if self._event is not None:
            self._event.wait()

    def query(self) -> bool:
        """Whether the work before the event is done."""
        if self._event is not None:
            return self._recorded and bool(self._event.query())
        self.synchronize()
        return self._recorded

    def synchronize(self) -> None:
        """Wait for the work before the event."""
        if self._event is not None:
            self._event.synchronize()
        elif self._recorded and not self._timing:
            synchronize_target(self._device, "torch.mps.Event.synchronize")

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds from this event to another.

        Raises:
            RuntimeError: If an event was made without timing, or the events are not in order.
        """
        if not (self._timing and end_event._timing and self._recorded and end_event._recorded):
            raise RuntimeError("Events were not created with argument 'enable_timing=True'")
        elapsed = self._milliseconds_to(end_event)
        if elapsed <= 0:
            raise RuntimeError(
                f"End event {end_event._number} was not recorded after start event {self._number}"
            )
        return elapsed

    def _milliseconds_to(self, end: Event) -> float:
        if self._event is not None and end._event is not None:
            end._event.synchronize()
            return float(self._event.elapsed_time(end._event))
        return ((end._time_ns or 0) - (self._time_ns or 0)) / 1e6


Event.__module__ = "torch.mps.event"

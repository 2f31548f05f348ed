"""Events on a target that has one queue.

An event that measures time waits for the target and reads the clock; the target's own events
are not used, because on MPS they can hang.
"""

from __future__ import annotations

import ctypes
import itertools
import time
from typing import Any

import torch

from .._capture import Mark, forbid_event, fork, mark
from ._device import synchronize_target
from ._streams import DYNAMO_STREAMS, current_stream_id
from ._surface import StandIn, emulated, end_graph, plain, redirection, refusal, target

__all__ = ["Event"]

_PlainEvent = plain("Event")
_new_event = torch.Event.__new__
_event_ids = itertools.count(1)


@emulated("Event", "reads the clock after waiting for the target; its own events can hang")
class Event(torch.Event, metaclass=StandIn):
    """`torch.cuda.Event` that measures real time and never hangs."""

    _original = _PlainEvent
    _timing: bool
    _id: int
    _time_ns: int | None
    _device: torch.device
    _interprocess: bool
    _external: bool
    _mark: Mark | None
    # Made by the constructor of torch.Event, which is given a device.
    _is_torchs: bool = False

    def __new__(
        cls,
        enable_timing: bool = False,
        blocking: bool = False,
        interprocess: bool = False,
        external: bool = False,
    ) -> Any:
        if redirection() is None:
            return _PlainEvent(enable_timing, blocking, interprocess, external)
        end_graph("torch.cuda.Event")
        # torch's part of the object does nothing; the CPU is a device that every torch has.
        # Past the seam: to the program, that would be a request of its own.
        self = _new_event(cls, "cpu")
        self._timing = bool(enable_timing)
        self._interprocess = bool(interprocess)
        self._external = bool(external)
        self._mark = None
        self._id = 0
        self._time_ns = None
        self._device = target()
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    @property
    def device(self) -> torch.device | None:  # type: ignore[override]
        """The device whose work the event marks; None until it is recorded."""
        return self._device if self._id or self._is_torchs else None

    @property
    def cuda_event(self) -> int:
        """A number that stands for the handle; 0 until the event is recorded."""
        return self._id

    event_id = cuda_event

    def record(self, stream: Any = None) -> None:
        """Mark this moment in the queue; with timing, wait for it and read the clock."""
        if stream is not None and not isinstance(stream, torch.Stream):
            raise TypeError(
                f"record(): argument 'stream' must be torch.Stream, not {type(stream).__name__}"
            )
        self._id = self._id or next(_event_ids)
        self._mark = mark(current_stream_id() if stream is None else stream.stream_id)
        if self._mark is not None and self._external:
            # Not a part of the order in the graph, but a record at each replay.
            self._mark.capture.recorder.add(self._read_clock)
            self._mark = None
        self._read_clock()

    def _read_clock(self) -> None:
        if self._timing:
            synchronize_target(self._device, "torch.cuda.Event.record")
            self._time_ns = time.perf_counter_ns()

    def wait(self, stream: Any = None) -> None:
        """Later work of the stream comes after the event, as all later work does here."""
        if stream is not None and not isinstance(stream, torch.Stream):
            raise TypeError(
                f"wait(): argument 'stream' must be torch.Stream, not {type(stream).__name__}"
            )
        fork(current_stream_id() if stream is None else stream.stream_id, self._mark)

    def query(self) -> bool:
        """Whether the work before the event is done: it is, after waiting for it."""
        forbid_event("torch.cuda.Event.query", self._mark)
        self._wait_for_it("torch.cuda.Event.query")
        return True

    def synchronize(self) -> None:
        """Wait for the work before the event."""
        forbid_event("torch.cuda.Event.synchronize", self._mark)
        self._wait_for_it("torch.cuda.Event.synchronize")

    def _wait_for_it(self, asked: str) -> None:
        if self._id and not self._timing:
            synchronize_target(self._device, asked)

    def elapsed_time(self, end_event: Event) -> float:  # type: ignore[override]
        """Milliseconds from this event to another.

        Raises:
            ValueError: If an event was made without timing or was not recorded.
        """
        if not isinstance(end_event, Event):
            raise TypeError(
                "elapsed_time(): argument 'other' must be torch.cuda.Event, not "
                f"{type(end_event).__name__}"
            )
        if not (self._timing and end_event._timing):
            raise ValueError("Both events must be created with argument 'enable_timing=True'.")
        if self._time_ns is None or end_event._time_ns is None:
            raise ValueError("Both events must be recorded before calculating elapsed time.")
        for event in (self, end_event):
            forbid_event("torch.cuda.Event.elapsed_time", event._mark)
        return (end_event._time_ns - self._time_ns) / 1e6

    def ipc_handle(self) -> bytes:
        """Not to be had: another process cannot wait for this one's queue."""
        handle: bytes = refusal(
            "Event.ipc_handle",
            "events cannot be shared between processes there",
            "synchronise in each process by itself",
        )()
        return handle

    @classmethod
    def from_ipc_handle(cls, device: Any, handle: bytes) -> Any:
        """Not to be had: another process cannot wait for this one's queue."""
        return cls.ipc_handle(cls())

    @property
    def _as_parameter_(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.cuda_event)

    def __eq__(self, other: object) -> bool:
        end_graph("torch.cuda.Event", DYNAMO_STREAMS)
        return self is other

    def __ne__(self, other: object) -> bool:
        end_graph("torch.cuda.Event")
        return self is not other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        if self.cuda_event:
            return f"<torch.cuda.Event {self.cuda_event:#x}>"
        return "<torch.cuda.Event uninitialized>"


Event.__module__ = "torch.cuda.streams"

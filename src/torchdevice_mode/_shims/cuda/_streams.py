"""Streams and events on a target that has one queue.

A stream is a name: work of all streams runs in the order in which it was given, which is one of
the orders that CUDA allows. An event that measures time waits for the target and reads the
clock; the target's own events are not used, because on MPS they can hang.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
import time
from typing import Any

import torch

from ._capture import Mark, capturing, forbid, forbid_event, fork, mark
from ._device import synchronize_target
from ._index import index_of
from ._surface import StandIn, Trace, emulated, end_graph, plain, redirection, target, unsupported

__all__ = ["DEFAULT_ID", "Event", "Stream", "current_stream_id"]

# Until torch 2.12 Dynamo compares a stream or event with what it knows of it by `==`, then by `!=`.
_DYNAMO_STREAMS = "torch._dynamo.variables.streams"

_PlainStream = plain("Stream")
_PlainExternalStream = plain("ExternalStream")
_PlainEvent = plain("Event")
_PlainStreamContext = plain("StreamContext")

_LOWEST, _HIGHEST = 0, -3
# CUDA's default stream has the handle 0, and so has the queue of every other device in torch.
DEFAULT_ID = 0
_ids = itertools.count(32)
_event_ids = itertools.count(1)


class _Selected(threading.local):
    """The stream that is current in this thread, or None for the default."""

    stream: Stream | None = None


_selected = _Selected()


def current_stream_id() -> int:
    """The number of the stream that is current in this thread."""
    return DEFAULT_ID if _selected.stream is None else _selected.stream.stream_id


# Made here, because Dynamo cannot trace the C++ enumeration where a stream is made.
_DEVICE_TYPES = {
    name.lower(): int(number.value)
    for name, number in torch._C._autograd.DeviceType.__members__.items()
}


@emulated("Stream", "a name for the target's one queue")
class Stream(torch.Stream, metaclass=StandIn):
    """`torch.cuda.Stream` where all work runs in the order in which it was given."""

    _original = _PlainStream
    _priority: int
    _pointer: int | None

    def __new__(cls, device: Any = None, priority: int = 0, **kwargs: Any) -> Any:
        if redirection() is None:
            return _PlainStream(device, priority, **kwargs)
        end_graph("torch.cuda.Stream")
        if not isinstance(priority, int):
            raise TypeError(f"an integer is required (got type {type(priority).__name__})")
        if device is not None:
            index_of(device)
        return cls._make(kwargs.get("stream_id") or next(_ids), priority, kwargs.get("stream_ptr"))

    @classmethod
    def _make(cls, stream_id: int, priority: int = 0, pointer: int | None = None) -> Any:
        device = target()
        self = torch.Stream.__new__(
            cls,
            stream_id=stream_id,
            device_index=device.index or 0,
            device_type=_DEVICE_TYPES[device.type],
        )
        self._priority = min(_LOWEST, max(_HIGHEST, priority))
        self._pointer = pointer
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The device, as tensors on it have it."""
        return target_of(self)

    @property
    def cuda_stream(self) -> int:
        """A number that stands for the handle: 0 for the default stream."""
        return self.stream_id if self._pointer is None else self._pointer

    @property
    def priority(self) -> int:
        """The priority asked for, within CUDA's range."""
        return self._priority

    @staticmethod
    def priority_range() -> tuple[int, int]:
        """The lowest and the highest priority."""
        return _LOWEST, _HIGHEST

    def query(self) -> bool:
        """Whether the work is done: it is, after waiting for it."""
        forbid("torch.cuda.Stream.query", self.stream_id)
        synchronize_target(self.device)
        return True

    def synchronize(self) -> None:
        """Wait until the work is done."""
        forbid("torch.cuda.Stream.synchronize", self.stream_id)
        synchronize_target(self.device)

    def wait_event(self, event: Any) -> None:
        """Later work comes after the event's, as all work here does."""
        event.wait(self)

    def wait_stream(self, stream: Any) -> None:
        """Later work comes after the other stream's, as all work here does."""
        self.wait_event(stream.record_event())

    def record_event(self, event: Any = None) -> Any:
        """Record an event, a new one if none is given."""
        if event is None:
            event = Event()
        event.record(self)
        return event

    def is_capturing(self) -> bool:
        """Whether a graph is being captured."""
        return capturing(self.stream_id) is not None

    @property
    def native_handle(self) -> int:
        """A number that stands for the handle, as `cuda_stream`."""
        return self.cuda_stream

    def __enter__(self) -> Stream:
        self._entered = StreamContext(self)
        self._entered.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._entered.__exit__(*exception)

    @property
    def _as_parameter_(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.cuda_stream)

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.cuda_stream

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, torch.Stream):
            return False
        end_graph("torch.cuda.Stream", _DYNAMO_STREAMS)
        return self.stream_id == other.stream_id and self.device_type == other.device_type

    def __ne__(self, other: object) -> bool:
        end_graph("torch.cuda.Stream")
        return not self == other

    def __hash__(self) -> int:
        return hash((self.cuda_stream, self.device))

    def __repr__(self) -> str:
        return f"<torch.cuda.Stream device={self.device} cuda_stream={self.cuda_stream:#x}>"


def target_of(stream: torch.Stream) -> torch.device:
    """The device of a stream; torch's own attribute gives the CPU an index that tensors lack."""
    device: torch.device = torch.Stream.device.__get__(stream)
    return torch.device("cpu") if device.type == "cpu" else device


@emulated("ExternalStream", "a name for the target's one queue")
class ExternalStream(Stream):
    """A stream that another library made."""

    _original = _PlainExternalStream

    def __new__(cls, stream_ptr: int, device: Any = None, **kwargs: Any) -> Any:
        if redirection() is None:
            return _PlainExternalStream(stream_ptr, device, **kwargs)
        if device is not None:
            index_of(device)
        return cls._make(stream_ptr, pointer=stream_ptr)


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
        self = torch.Event.__new__(cls, "cpu")
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
    def device(self) -> torch.device:  # type: ignore[override]
        """The device whose work the event marks."""
        return self._device

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
            synchronize_target(self._device)
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
        self._wait_for_it()
        return True

    def synchronize(self) -> None:
        """Wait for the work before the event."""
        forbid_event("torch.cuda.Event.synchronize", self._mark)
        self._wait_for_it()

    def _wait_for_it(self) -> None:
        if self._id and not self._timing:
            synchronize_target(self._device)

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
        from ._surface import refusal

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
        end_graph("torch.cuda.Event", _DYNAMO_STREAMS)
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


@emulated("StreamContext", "the stream is current in the block, and nothing else changes")
class StreamContext:
    """Context manager that selects a stream."""

    def __new__(cls, stream: Any) -> Any:
        if redirection() is None:
            return _PlainStreamContext(stream)
        return object.__new__(cls)

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.idx = 0

    def __enter__(self) -> None:
        self.src_prev_stream = _selected.stream
        if self.stream is not None:
            _selected.stream = self.stream

    def __exit__(self, type: Any, value: Any, traceback: Any) -> None:
        if self.stream is not None:
            _selected.stream = self.src_prev_stream


for _class in (Stream, ExternalStream, Event):
    _class.__module__ = "torch.cuda.streams"
StreamContext.__module__ = "torch.cuda"


@emulated(
    "stream", "the stream is current in the block, and nothing else changes", trace=Trace.BREAK
)
def stream(stream: Any) -> StreamContext:
    return StreamContext(stream)


@emulated("current_stream", "the stream selected in this thread", trace=Trace.BREAK)
def current_stream(device: Any = None) -> Stream:
    index_of(device)
    chosen = _selected.stream
    return chosen if chosen is not None else default_stream()


@emulated("default_stream", "the target's one queue", trace=Trace.BREAK)
def default_stream(device: Any = None) -> Stream:
    index_of(device)
    made: Stream = Stream._make(DEFAULT_ID)
    return made


@emulated(
    "set_stream",
    "the stream is current in this thread, and nothing else changes",
    trace=Trace.BREAK,
)
def set_stream(stream: Any) -> None:
    if stream is not None:
        _selected.stream = stream


@emulated(
    "_set_stream_by_id",
    "the stream is current in this thread, and nothing else changes",
    trace=Trace.BREAK,
)
def _set_stream_by_id(stream_id: int, device_index: int, device_type: int) -> None:
    _selected.stream = Stream._make(stream_id)


@emulated("get_stream_from_external", "a name for the target's one queue", trace=Trace.BREAK)
def get_stream_from_external(data_ptr: int, device: Any = None) -> Stream:
    made: Stream = ExternalStream(data_ptr, device)
    return made


unsupported(
    "current_blas_handle",
    "current_solver_handle",
    reason="it hands out a handle of a CUDA library",
    instead="call torch.linalg or torch.matmul",
)
unsupported(
    "GreenContext",
    reason="the target cannot be partitioned",
    instead="run without a green context on this machine",
)

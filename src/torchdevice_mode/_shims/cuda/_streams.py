"""Streams on a target that has one queue.

A stream is a name: work of all streams runs in the order in which it was given, which is one of
the orders that CUDA allows.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from typing import Any

import torch

from .._capture import capturing, forbid
from ._device import synchronize_target
from ._index import exchange, index_of
from ._surface import StandIn, Trace, emulated, end_graph, plain, redirection, target, unsupported

__all__ = ["DYNAMO_STREAMS", "DEFAULT_ID", "Stream", "current_stream_id"]

# Until torch 2.12 Dynamo compares a stream or event with what it knows of it by `==`, then by `!=`.
DYNAMO_STREAMS = "torch._dynamo.variables.streams"

_PlainStream = plain("Stream")
_PlainExternalStream = plain("ExternalStream")
_PlainStreamContext = plain("StreamContext")

_LOWEST, _HIGHEST = 0, -3
# CUDA's default stream has the handle 0, and so has the queue of every other device in torch.
DEFAULT_ID = 0
_ids = itertools.count(32)


class _Selected(threading.local):
    """The stream that is current in this thread, or None for the default."""

    stream: Stream | None = None


_selected = _Selected()


def current_stream_id() -> int:
    """The number of the stream that is current in this thread."""
    return DEFAULT_ID if _selected.stream is None else _selected.stream.stream_id


@emulated(
    "is_current_stream_capturing", "whether operators are being recorded", trace=Trace.CONSTANT
)
def is_current_stream_capturing() -> bool:
    return capturing(current_stream_id()) is not None


# Made here, because Dynamo cannot trace the C++ enumeration where a stream is made.
_DEVICE_TYPES = {
    name.lower(): int(number.value)
    for name, number in torch._C._autograd.DeviceType.__members__.items()
}


# What a stream can be made from besides a device: the identity of one that is there.
_IDENTITY = {"stream_id", "device_index", "device_type", "stream_ptr"}


def _check(device: Any) -> None:
    """Refuse a device that is not there, in the words of CUDA."""
    exchange(index_of(device))


@emulated("Stream", "a name for the target's one queue")
class Stream(torch.Stream, metaclass=StandIn):
    """`torch.cuda.Stream` where all work runs in the order in which it was given."""

    _original = _PlainStream
    _priority: int
    _pointer: int | None
    _entered: list[StreamContext]

    def __new__(cls, device: Any = None, priority: int = 0, **kwargs: Any) -> Any:
        if redirection() is None:
            return _PlainStream(device, priority, **kwargs)
        end_graph("torch.cuda.Stream")
        if not isinstance(priority, int):
            kind = type(priority).__name__
            raise TypeError(f"{kind!r} object cannot be interpreted as an integer")
        for name in kwargs.keys() - _IDENTITY:
            raise TypeError(f"{name!r} is an invalid keyword argument for this function")
        _check(device)
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
        self._entered = []
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
        synchronize_target(self.device, "torch.cuda.Stream.query")
        return True

    def synchronize(self) -> None:
        """Wait until the work is done."""
        forbid("torch.cuda.Stream.synchronize", self.stream_id)
        synchronize_target(self.device, "torch.cuda.Stream.synchronize")

    def wait_event(self, event: Any) -> None:
        """Later work comes after the event's, as all work here does."""
        event.wait(self)

    def wait_stream(self, stream: Any) -> None:
        """Later work comes after the other stream's, as all work here does."""
        self.wait_event(stream.record_event())

    def record_event(self, event: Any = None) -> Any:
        """Record an event, a new one if none is given."""
        if event is None:
            from ._events import Event

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
        block = StreamContext(self)
        block.__enter__()
        self._entered.append(block)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._entered.pop().__exit__(*exception)

    @property
    def _as_parameter_(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.cuda_stream)

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.cuda_stream

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, torch.Stream):
            return False
        end_graph("torch.cuda.Stream", DYNAMO_STREAMS)
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
        _check(device)
        return cls._make(stream_ptr, pointer=stream_ptr)


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
            set_stream(self.stream)

    def __exit__(self, type: Any, value: Any, traceback: Any) -> None:
        if self.stream is not None:
            _selected.stream = self.src_prev_stream


for _class in (Stream, ExternalStream):
    _class.__module__ = "torch.cuda.streams"
StreamContext.__module__ = "torch.cuda"


@emulated(
    "stream", "the stream is current in the block, and nothing else changes", trace=Trace.BREAK
)
def stream(stream: Any) -> StreamContext:
    return StreamContext(stream)


@emulated("current_stream", "the stream selected in this thread", trace=Trace.BREAK)
def current_stream(device: Any = None) -> Stream:
    _check(device)
    chosen = _selected.stream
    # A stream that was set in an earlier redirection may be another target's.
    return chosen if chosen is not None and chosen.device == target() else default_stream()


@emulated("default_stream", "the target's one queue", trace=Trace.BREAK)
def default_stream(device: Any = None) -> Stream:
    _check(device)
    made: Stream = Stream._make(DEFAULT_ID)
    return made


@emulated(
    "set_stream",
    "the stream is current in this thread, and nothing else changes",
    trace=Trace.BREAK,
)
def set_stream(stream: Any) -> None:
    if stream is not None:
        _ = stream.device  # no stream has none
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

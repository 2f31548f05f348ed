"""What each name of `torch.accelerator` does under redirection."""

from __future__ import annotations

import functools
import re
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.accelerator

from ..._active import current
from ..._spec import parse
from .._capture import forbid
from .._surface import StandIn, State, Trace
from ..cuda import _memory, _streams
from ..cuda._device import synchronize_target
from ..cuda._graphs import Replayable
from ..cuda._index import count, exchange
from ._surface import ACCELERATOR

__all__: list[str] = []

_F = TypeVar("_F", bound=Callable[..., Any])

# Dtypes that are packed into bytes, or belong to quantised tensors: nothing converts to them.
_PARTS_OF_BYTES = re.compile(r"torch\.(q|bits|float4|u?int[1-7]$)")

# The function in which Dynamo calls, for the code that it traces, what is constant.
_CALLS_FOR_USER = "invoke_and_store_as_constant"


_ASKS_PLAINLY = ("torch.", f"{__name__.partition('.')[0]}.")

_NO_ACCELERATOR = ("cpu",)
_ONE_QUEUE = ("cpu", "mps")


def _asks_plainly(frame: types.FrameType) -> bool:
    """Whether torch asks for itself, or this package does: both mean what the machine has."""
    name = f"{frame.f_globals.get('__name__')}."
    return name.startswith(_ASKS_PLAINLY) and frame.f_code.co_name != _CALLS_FOR_USER


def _answers(
    name: str,
    reason: str,
    targets: tuple[str, ...] = _NO_ACCELERATOR,
    *,
    state: State = State.EMULATED,
    trace: Trace = Trace.BREAK,
) -> Callable[[_F], _F]:
    """Decorate what answers a program on some targets; on others torch does, on a device of ours.

    Args:
        name: The name below torch.accelerator.
        reason: Why torch's own does not do.
        targets: The types of target on which the function answers.
        state: What the row says.
        trace: What `torch.compile` makes of a call.
    """
    plain = ACCELERATOR.plain(name)

    def decorate(answer: _F) -> _F:
        if plain is None:
            return answer  # an older torch

        @functools.wraps(answer)
        def decided(*args: Any, **kwargs: Any) -> Any:
            frame = sys._getframe(2)
            if _asks_plainly(frame):
                # What the guards of compiled code say of the accelerator has become the CPU, where
                # that is the target; it goes for the accelerator's own.
                return plain(*(each for each in args if each != torch.device("cpu")), **kwargs)
            if ACCELERATOR.target().type in targets:
                return answer(*args, **kwargs)
            return plain(*(_resolved(each, frame) for each in args), **kwargs)

        row = ACCELERATOR.mapped if state is State.MAPPED else ACCELERATOR.emulated
        row(name, reason, trace=trace)(decided)
        return answer

    return decorate


def _resolved(device: Any, frame: types.FrameType | None = None) -> Any:
    """A device argument after the policy; what is no name of a device as it is."""
    if not isinstance(device, (str, torch.device)):
        return device
    found = ACCELERATOR.context().device_for(device, frame)
    return device if found is None else found


def _index(device: Any, *, optional: bool = True) -> int:
    """The index that a device argument stands for.

    Raises:
        ValueError: If it is of another type than the target, or has no index and needs one.
    """
    if isinstance(device, int):
        return device
    if device is not None:
        resolved, target = torch.device(_resolved(device)), ACCELERATOR.target()
        if resolved.type != target.type:
            raise ValueError(
                f"{resolved.type} doesn't match the current accelerator {target.type}."
            )
        if optional or isinstance(device, torch.device) or parse(device).index is not None:
            return resolved.index or 0
    elif optional:
        return 0
    raise ValueError(
        f"Expected a torch.device with a specified index or an integer, but got:{device}"
    )


def _select(device: Any, *, optional: bool = True) -> None:
    """Check a device argument. MPS takes every index for its one device, as in plain torch."""
    index = _index(device, optional=optional)
    if ACCELERATOR.target().type == "cpu":
        exchange(index)


# --- which there is -----------------------------------------------------------------------------


@_answers("is_available", "the CPU stands for one", trace=Trace.CONSTANT)
def is_available() -> bool:
    return True


@_answers("device_count", "as many as torch.cuda finds", _ONE_QUEUE, trace=Trace.CONSTANT)
def device_count() -> int:
    return count()


@_answers("current_accelerator", "the CPU stands for one", trace=Trace.CONSTANT)
def current_accelerator(check_available: bool = False) -> torch.device | None:
    with torch._C.DisableTorchFunction():
        return torch.device(ACCELERATOR.target().type)


@_answers("current_device_index", "the CPU stands for one", trace=Trace.CONSTANT)
def current_device_index() -> int:
    return 0


@_answers("current_device_idx", "the old name of current_device_index")
def current_device_idx() -> int:
    warnings.warn("Use `current_device_index` instead.", FutureWarning, stacklevel=4)
    return 0


@_answers("get_device_capability", "the CPU stands for one")
def get_device_capability(device: Any = None, /) -> dict[str, Any]:
    _select(device)
    return {"supported_dtypes": _every_dtype()}


def _every_dtype() -> set[torch.dtype]:
    """The dtypes that tensors on the CPU can have and be converted to."""
    found = {each for each in vars(torch).values() if isinstance(each, torch.dtype)}
    return {each for each in found if not _PARTS_OF_BYTES.match(str(each))}


@_answers("set_device_index", "there is one device, so only its index is checked", _ONE_QUEUE)
def set_device_index(device: Any, /) -> None:
    _select(device, optional=False)


@_answers("set_device_idx", "the old name of set_device_index", _ONE_QUEUE)
def set_device_idx(device: Any, /) -> None:
    warnings.warn("Use `set_device_index` instead.", FutureWarning, stacklevel=4)
    _select(device, optional=False)


_PlainDeviceIndex: Any = ACCELERATOR.plain("device_index")


class device_index(metaclass=StandIn):  # noqa: N801 - torch's name
    """Context manager that selects a device."""

    _original = _PlainDeviceIndex

    def __new__(cls, device: int | None, /) -> Any:
        context = current()
        if context is None or context.target.type != "cpu":
            return _PlainDeviceIndex(device)
        return object.__new__(cls)

    def __init__(self, device: int | None, /) -> None:
        self.idx = device
        self.prev_idx = -1

    def __enter__(self) -> None:
        if self.idx is not None:
            self.prev_idx = exchange(self.idx)

    def __exit__(self, *exc_info: object) -> None:
        if self.idx is not None:
            exchange(self.prev_idx)


# --- streams ------------------------------------------------------------------------------------


@_answers("current_stream", "the stream selected in this thread", _ONE_QUEUE)
def current_stream(device: Any = None, /) -> torch.Stream:
    _select(device)
    return _streams.current_stream()


@_answers(
    "set_stream", "the stream is current in this thread, and nothing else changes", _ONE_QUEUE
)
def set_stream(stream: torch.Stream) -> None:
    if not isinstance(stream, torch.Stream):
        raise TypeError(
            f"set_stream(): argument 'stream' must be torch.Stream, not {type(stream).__name__}"
        )
    _streams.set_stream(stream)


@_answers("synchronize", "waits for the target", _ONE_QUEUE, state=State.MAPPED)
def synchronize(device: Any = None, /) -> None:
    _select(device)
    forbid("torch.accelerator.synchronize")
    synchronize_target(ACCELERATOR.target(), "torch.accelerator.synchronize")


# --- memory -------------------------------------------------------------------------------------


def _counted(name: str, of_cuda: Callable[..., Any]) -> Any:
    """A row for a figure that torch.cuda has as well."""

    @_answers(name, "what torch.cuda says of the target", _ONE_QUEUE, state=State.MAPPED)
    def ask(device_index: Any = None, /) -> Any:
        index = _index(device_index)
        return of_cuda(index if ACCELERATOR.target().type == "cpu" else None)

    return ask


memory_allocated = _counted("memory_allocated", _memory.memory_allocated)
memory_reserved = _counted("memory_reserved", _memory.memory_reserved)
max_memory_allocated = _counted("max_memory_allocated", _memory.max_memory_allocated)
max_memory_reserved = _counted("max_memory_reserved", _memory.max_memory_reserved)
memory_stats = _counted("memory_stats", _memory.memory_stats)
get_memory_info = _counted("get_memory_info", _memory.mem_get_info)
reset_peak_memory_stats = _counted("reset_peak_memory_stats", _memory.reset_peak_memory_stats)
reset_accumulated_memory_stats = _counted(
    "reset_accumulated_memory_stats", _memory.reset_accumulated_memory_stats
)


@_answers("empty_cache", "what torch.cuda does on the target", _ONE_QUEUE, state=State.MAPPED)
def empty_cache() -> None:
    _memory.empty_cache()


@_answers("empty_host_cache", "no memory is pinned, so there is none to give back", _ONE_QUEUE)
def empty_host_cache() -> None:
    return None


# --- graphs -------------------------------------------------------------------------------------

_PlainGraph: Any = ACCELERATOR.plain("Graph")


class Graph(Replayable, metaclass=StandIn):
    """`torch.accelerator.Graph` that records operators."""

    _original = _PlainGraph
    graph_pool: Any
    capture_error_mode: str

    def __new__(
        cls, keep_graph: bool = False, *, pool: Any = None, capture_error_mode: str = "default"
    ) -> Any:
        context = current()
        if context is None or context.target.type not in _ONE_QUEUE:
            return _PlainGraph(keep_graph, pool=pool, capture_error_mode=capture_error_mode)
        self = object.__new__(cls)
        self._set_up(keep_graph)
        return self

    def __init__(
        self, keep_graph: bool = False, *, pool: Any = None, capture_error_mode: str = "default"
    ) -> None:
        self.graph_pool = pool
        self.capture_error_mode = capture_error_mode

    def capture_begin(self) -> None:
        """Record the work of the current stream."""
        mode = "global" if self.capture_error_mode == "default" else self.capture_error_mode
        self._begin(self.graph_pool, mode)

    def capture_end(self) -> None:
        """Stop recording."""
        self._end()

    def debug_dump(self, path: str) -> None:
        """Write the captured operators as a graph in the DOT language."""
        self._dump(path)

    def __enter__(self) -> None:
        forbid("torch.accelerator.Graph")
        synchronize_target(ACCELERATOR.target())
        _memory.empty_cache()
        self.capture_begin()

    def __exit__(self, *exc_info: object) -> None:
        self.capture_end()


for _class, _module in ((device_index, "torch.accelerator"), (Graph, "torch.accelerator.graphs")):
    _class.__module__ = _module
if _PlainDeviceIndex is not None:
    ACCELERATOR.emulated("device_index", "there is one device, so only its index is checked")(
        device_index
    )
if _PlainGraph is not None:
    ACCELERATOR.emulated("Graph", "records operators and replays them on the same memory")(Graph)

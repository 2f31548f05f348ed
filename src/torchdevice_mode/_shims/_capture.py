"""Capture: the operators called in a block are recorded, and replayed on the same memory.

CUDA records kernels without running them. Here the operators run while they are recorded, since
Python needs their results, and what they wrote into tensors from outside of the block is taken
back when the capture ends, with the random state. So capturing a training step changes nothing,
as on CUDA. A replay runs each operator again on the memory that it had, and copies what is new
into the tensors that the capture made: all of these stay allocated as long as the graph.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _get_current_dispatch_mode,
    _get_current_dispatch_mode_stack,
)

if TYPE_CHECKING:
    from ._recorded import Tape

__all__ = [
    "ILLEGAL_STATE",
    "Capture",
    "capture_error",
    "capturing",
    "forbid",
    "forbid_event",
    "forbid_seed",
    "fork",
    "mark",
    "recording",
]

_NOT_PERMITTED = 900, "operation not permitted when stream is capturing"
_INVALIDATED = 901, "operation failed due to a previous error during capture"
_UNJOINED = 904, "capturing stream has unjoined work"
_CAPTURED_EVENT = 907, "operation not permitted on an event last recorded in a capturing stream"
ILLEGAL_STATE = 401, "the operation cannot be performed in the present state"

# Captures that are under way in this process, in the order in which they began.
_captures: list[Capture] = []


def capture_error(error: tuple[int, str], because: str = "") -> Exception:
    """CUDA's error for a capture.

    Args:
        error: CUDA's number and text.
        because: What was called, why that cannot be, and what to do.
    """
    kind: type[Exception] = getattr(torch, "AcceleratorError", RuntimeError)
    number, text = error
    made = kind(f"CUDA error: {text}\n{because}" if because else f"CUDA error: {text}")
    made.error_code = number  # type: ignore[attr-defined]
    return made


def capturing(stream_id: int) -> Capture | None:
    """The capture that a stream takes part in."""
    for capture in _captures:
        if stream_id in capture.streams:
            return capture
    return None


def forbid(what: str, stream_id: int | None = None) -> None:
    """Refuse to wait for the device, or for one stream, where that is being captured.

    Args:
        what: The call, as a user writes it.
        stream_id: The stream that is waited for; None for the whole device.

    Raises:
        torch.AcceleratorError: If a capture is under way there; the capture is invalid then.
    """
    for capture in _captures:
        if stream_id is None:
            if capture.mode == "thread_local" and not capture.in_its_thread():
                continue
        elif stream_id not in capture.streams:
            continue
        raise capture.refusal(f"{what} waits for work that is being captured")


class Mark(NamedTuple):
    """Where an event was recorded in a capture."""

    capture: Capture
    stream_id: int


def mark(stream_id: int) -> Mark | None:
    """What an event that is recorded in a stream remembers, for `fork` and `forbid_event`."""
    capture = capturing(stream_id)
    return None if capture is None else Mark(capture, stream_id)


def fork(stream_id: int, recorded: Mark | None) -> None:
    """Let a stream that waits for an event take part in the capture that recorded the event."""
    if recorded is None or recorded.capture not in _captures:
        return
    capture = recorded.capture
    if stream_id not in capture.streams:
        capture.streams.add(stream_id)
        capture.unjoined.add(stream_id)
    if stream_id != recorded.stream_id:
        capture.unjoined.discard(recorded.stream_id)


def forbid_event(what: str, recorded: Mark | None) -> None:
    """Refuse to wait for an event that is being captured, or to ask for its time.

    Raises:
        torch.AcceleratorError: If it is; the capture is invalid then.
    """
    if recorded is not None and recorded.capture in _captures:
        recorded.capture.invalid = f"{what} waits for work that is being captured."
        raise capture_error(_CAPTURED_EVENT, recorded.capture.invalid)


def recording() -> Capture | None:
    """The capture that records what is called here."""
    if not _captures:
        return None
    modes = _get_current_dispatch_mode_stack()
    for capture in _captures:
        if capture.is_among(modes) and capture.takes():
            return capture
    return None


def forbid_seed(name: str) -> None:
    """Refuse to seed the target's generator in a capture: a replay goes on where it was.

    Raises:
        RuntimeError: If a capture is under way here.
    """
    if recording() is not None:
        raise RuntimeError(
            f"Cannot call CUDAGeneratorImpl::{name} during CUDA graph capture. If you need this "
            "call to be captured, please file an issue. Current cudaStreamCaptureStatus: "
            "cudaStreamCaptureStatusActive"
        )


class Capture:
    """A capture that is under way.

    Args:
        device: The target.
        generator: Draws the random numbers of the target.
        stream_id: The stream that it begins on.
        current_stream_id: Gives the number of the stream that is current in the thread.
        mode: CUDA's capture error mode.
    """

    def __init__(
        self,
        device: torch.device,
        generator: torch.Generator,
        stream_id: int,
        current_stream_id: Callable[[], int],
        mode: str,
    ) -> None:
        self.device = device
        self.origin = stream_id
        self.streams = {stream_id}
        self.unjoined: set[int] = set()
        self.mode = mode
        self.invalid: str | None = None
        # Imported with the first capture: most programs make none.
        from ._recorded import Recorder

        self.recorder = Recorder(device, generator)
        # Whether the copy that is being called was asked for without waiting.
        self.asynchronous = False
        self._current_stream_id = current_stream_id
        self._thread = threading.get_ident()
        self._dispatch = _DispatchWatcher(self)
        self._function = _FunctionWatcher(self)
        self._stance: Any = None

    def begin(self) -> None:
        """Record from here on.

        Raises:
            torch.AcceleratorError: If the stream is being captured already.
        """
        if capturing(self.origin) is not None:
            raise capture_error(ILLEGAL_STATE)
        # Compiled code calls no operators that could be recorded.
        if "torch._dynamo" in sys.modules:
            self._stance = torch.compiler.set_stance("force_eager")
        _captures.append(self)
        self._dispatch.__enter__()
        self._function.__enter__()

    def end(self) -> Tape:
        """Stop recording, and take back what the block wrote into tensors from outside.

        Returns:
            What was recorded.

        Raises:
            torch.AcceleratorError: If something that cannot be replayed was called.
        """
        self._leave()
        self.recorder.take_back()
        if self.invalid is not None:
            raise capture_error(_INVALIDATED, self.invalid)
        if self.unjoined:
            raise capture_error(
                _UNJOINED, "A stream that waited for the captured one must be waited for in it."
            )
        return self.recorder.tape()

    def _leave(self) -> None:
        _captures.remove(self)
        _remove_function_mode(self._function)
        if _get_current_dispatch_mode() is self._dispatch:
            self._dispatch.__exit__(None, None, None)
        if self._stance is not None:
            self._stance.__exit__(None, None, None)

    def abandon(self) -> None:
        """Stop recording, and keep nothing."""
        self._leave()
        self.recorder.take_back()

    def in_its_thread(self) -> bool:
        """Whether this is the thread that captures."""
        return threading.get_ident() == self._thread

    def takes(self) -> bool:
        """Whether work that is called here belongs to the capture.

        Threads of the autograd engine have no stream of their own: theirs is the forward's.
        """
        return not self.in_its_thread() or self._current_stream_id() in self.streams

    def is_among(self, modes: list[Any]) -> bool:
        """Whether the mode that records is on a stack of modes."""
        return self._dispatch in modes

    def refusal(self, reason: str) -> Exception:
        """The error for a call that cannot be replayed; it invalidates the capture."""
        self.invalid = f"{reason}: call it before or after the captured block."
        return capture_error(_NOT_PERMITTED, self.invalid)

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator and record it.

        Raises:
            torch.AcceleratorError: If the operator cannot be replayed.
        """
        if self.invalid is not None:
            raise capture_error(_INVALIDATED, self.invalid)
        reason = self.recorder.why_not(func, args, kwargs, self.asynchronous)
        if reason is not None:
            raise self.refusal(reason)
        return self.recorder.call(func, args, kwargs)


def _remove_function_mode(mode: TorchFunctionMode) -> None:
    """Take a mode off this thread's stack, wherever in it it is."""
    above: list[TorchFunctionMode] = []
    if mode not in _get_current_function_mode_stack():
        return
    while (top := torch._C._pop_torch_function_stack()) is not mode:
        above.append(top)
    for kept in reversed(above):
        torch._C._push_on_torch_function_stack(kept)


class _DispatchWatcher(TorchDispatchMode):
    """Hands every operator to the capture, also those of the backward pass and of optimizers.

    Dynamo runs everything eagerly under a mode that does not ignore its internals, which is
    what a capture needs.
    """

    def __init__(self, capture: Capture) -> None:
        super().__init__()
        self.capture = capture

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if any(_has_own_dispatch(kind) for kind in types):
            return NotImplemented  # what a subclass makes of the call comes here by itself
        kwargs = kwargs or {}
        if not self.capture.takes():
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            return self.capture.call(func, args, kwargs)


def _has_own_dispatch(kind: type) -> bool:
    return (
        getattr(kind, "__torch_dispatch__", None) is not torch._C._disabled_torch_dispatch_impl
        and kind is not torch.Tensor
    )


_READS = {
    torch.Tensor.cpu: "Tensor.cpu",
    torch.Tensor.numpy: "Tensor.numpy",
    torch.Tensor.tolist: "Tensor.tolist",
    torch.Tensor.__array__: "Tensor.__array__",
    torch.Tensor.__repr__: "Tensor.__repr__",
}


class _FunctionWatcher(TorchFunctionMode):
    """Sees the reads of a tensor that reach no operator where the target is the CPU."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        capture = self.capture
        if func in _READS and args[0].device.type == capture.device.type and capture.takes():
            raise capture.refusal(f"{_READS[func]} reads a tensor on the host")
        if kwargs.get("non_blocking") or (func is torch.Tensor.copy_ and args[2:] == (True,)):
            # The rules make such a copy wait on MPS; CUDA records it.
            capture.asynchronous = True
            try:
                return func(*args, **kwargs)
            finally:
                capture.asynchronous = False
        return func(*args, **kwargs)

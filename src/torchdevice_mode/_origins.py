"""Which line of the program a call of the backward pass belongs to.

The engine's threads have no frame of the program. What runs there is told by the node that the
engine evaluates: torch numbers nodes as the forward pass makes them, so the call that ran under
that number is the origin, where it was noted. Otherwise it is the line that called `backward`.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ._ledger import Place
from ._log import user_frame

__all__ = ["during_backward", "note_forward", "origin"]

# More nodes than most programs have in one step; the oldest are forgotten.
_MOST_NODES = 10_000

_lock = threading.Lock()
# By thread and sequence number: the numbers are each thread's own.
_forward: dict[tuple[int, int], Place] = {}
_backward_calls: list[tuple[types.FrameType, int]] = []


@contextmanager
def during_backward(frame: types.FrameType) -> Iterator[None]:
    """Say who called `backward`.

    Args:
        frame: The frame that led to the call.
    """
    call = frame, threading.get_ident()
    _backward_calls.append(call)
    try:
        yield
    finally:
        _backward_calls.remove(call)


def note_forward(place: types.FrameType | Place | None) -> None:
    """Say where the program made a call that autograd records.

    To be called below autograd, from the kernel of the call: its node is the last that was made.

    Args:
        place: The program's frame.
    """
    if not isinstance(place, types.FrameType):
        return
    key = threading.get_ident(), torch._C._autograd._get_sequence_nr() - 1
    with _lock:
        if len(_forward) >= _MOST_NODES:
            del _forward[next(iter(_forward))]
        _forward[key] = Place(place.f_code, place.f_lineno, place.f_lasti)


def origin(frame: types.FrameType) -> types.FrameType | Place | None:
    """The place in the program that a call comes from, in the forward or the backward pass.

    Args:
        frame: The frame to begin at.

    Returns:
        The user's frame; within `backward` that of a hook or of a custom `backward`, else the
        forward call if it was noted, else the call of `backward`. None where nothing is known.
    """
    user = user_frame(frame)
    if not _backward_calls:
        return user
    calls = _backward_calls[::-1]
    callers = [user_frame(call) for call, _ in calls]
    if user is not None and user not in callers:
        return user
    node = torch._C._current_autograd_node()
    if node is not None:
        number = node._sequence_nr()
        for _, thread in calls:
            place = _forward.get((thread, number))
            if place is not None:
                return place
    return user or callers[0]

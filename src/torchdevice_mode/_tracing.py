"""`torch.jit.trace` of a call that torch refuses and that is then made otherwise.

While torch records a call it has put the tracer aside, and where the call raises it leaves it
there: nothing more would be recorded, and torch would crash at the end of the trace. So a call that
is made anew first takes the tracer up again.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["remembering_tracer", "resume_tracer"]


class _Local(threading.local):
    """The tracer of the innermost trace in this thread."""

    def __init__(self) -> None:
        self.tracer: Any = None


_local = _Local()


def remembering_tracer(function: Callable[..., Any]) -> Callable[..., Any]:
    """What is traced, so that its tracer is known while it runs."""

    @functools.wraps(function, updated=())
    def traced(*args: Any, **kwargs: Any) -> Any:
        before, _local.tracer = _local.tracer, torch._C._get_tracing_state()
        try:
            return function(*args, **kwargs)
        finally:
            _local.tracer = before

    return traced


def resume_tracer() -> None:
    """Take the tracer up again where a call that raised has left it aside."""
    tracer = _local.tracer
    if tracer is None or torch._C._get_tracing_state() is not None:
        return
    torch._C._set_tracing_state(tracer)  # type: ignore[attr-defined]
    # The call was noted before it was made, and has no result.
    noted = list(tracer.graph().nodes())
    if noted and noted[-1].outputsSize() == 0:
        noted[-1].destroy()

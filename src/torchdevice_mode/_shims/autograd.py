"""The backward pass: hooks, custom `backward` and checkpoint recomputation are user code too.

`Tensor.backward` is itself a torch function, and a mode is off while it handles a call. So the
mode is entered again where torch calls its engine; the engine's worker threads inherit it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.autograd.graph

from .._active import carried_to_workers, current
from .._modes import entered
from .._patches import Patch

__all__ = ["PATCHES"]


def _with_mode(run_backward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run_backward)
    def run(*args: Any, **kwargs: Any) -> Any:
        context = current()
        if context is None or torch.compiler.is_compiling():
            return run_backward(*args, **kwargs)
        with entered(context), carried_to_workers(context):
            return run_backward(*args, **kwargs)

    return run


_REASON = "Python code called by the engine runs with function modes off, and no hook turns them on"

PATCHES: tuple[Patch, ...] = (
    Patch(lambda: torch.autograd, "_engine_run_backward", _with_mode, _REASON),
    Patch(lambda: torch.autograd.graph, "_engine_run_backward", _with_mode, _REASON),
)

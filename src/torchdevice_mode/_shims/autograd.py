"""The backward pass: hooks, custom `backward` and checkpoint recomputation are user code too.

`Tensor.backward` is itself a torch function, and a mode is off while it handles a call. So the
mode is entered again where torch calls its engine; the engine's worker threads inherit it.

A call that the target refuses there cannot be made anew by who called `backward`: the pass is half
done. So the first pass at each line runs under the dispatch mode, which sees every operator;
later ones do where it was needed.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.autograd.graph

from .._active import carried_to_workers, current
from .._context import Context
from .._log import user_frame
from .._modes import entered
from .._origins import during_backward
from .._patches import Patch
from .cuda._figures import note_level
from .gradients import at_their_outputs

__all__ = ["PATCHES"]


def _with_mode(run_backward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run_backward)
    def run(outputs: Any, *args: Any, **kwargs: Any) -> Any:
        context = current()
        if context is None or torch.compiler.is_compiling():
            return run_backward(outputs, *args, **kwargs)
        if args:
            args = (at_their_outputs(context, outputs, args[0]), *args[1:])
        caller = during_backward(sys._getframe(1))
        # What the forward pass left for this one is most often the peak of a step.
        note_level(context.target.type)
        with entered(context), carried_to_workers(context), caller, _guarded(context):
            result = run_backward(outputs, *args, **kwargs)
        note_level(context.target.type)
        return result

    return run


@contextmanager
def _guarded(context: Context) -> Iterator[None]:
    """The dispatch mode, where it is not known to be needless."""
    if context.target.type != "mps":
        yield
        return
    user = user_frame(sys._getframe(3))
    line = None if user is None else (user.f_code, user.f_lineno)
    if line in context.backward_lines:
        yield
        return
    # With what it needs, it is more than is worth importing when enabling.
    from .._dispatch_mode import RedirectDispatchMode

    mode = RedirectDispatchMode(context)
    with mode:
        yield
    if not mode.recovered:
        context.backward_lines.add(line)


def _unpinned(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def __init__(  # noqa: N807 - it replaces one
        self: Any, pin_memory: bool = False, *args: Any, **kwargs: Any
    ) -> None:
        context = current()
        # Its hooks run with modes off, and torch.cuda is available, so torch would pin.
        if context is not None and context.cuda_type.type != "cuda":
            pin_memory = False
        original(self, pin_memory, *args, **kwargs)

    return __init__


_REASON = "Python code called by the engine runs with function modes off, and no hook turns them on"

PATCHES: tuple[Patch, ...] = (
    Patch(lambda: torch.autograd, "_engine_run_backward", _with_mode, _REASON),
    Patch(lambda: torch.autograd.graph, "_engine_run_backward", _with_mode, _REASON),
    Patch(
        lambda: torch.autograd.graph.save_on_cpu,
        "__init__",
        _unpinned,
        "pins memory for CUDA in hooks, where function modes are off",
    ),
)

"""Gradients that a program made on another device than that of what they belong to.

`y.backward(torch.from_numpy(g))`, and a custom `backward` that computes with NumPy: on the CPU
they belong there. The engine refuses them when the pass is half done, so they are moved where it
is handed them.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.compiler import is_compiling

from .._active import current
from .._context import Context
from .._dtypes import bytes_of
from .._origins import origin
from .._patches import Patch

__all__ = ["PATCHES", "at_their_outputs"]


def at_their_outputs(
    context: Context, outputs: Sequence[Any], gradients: Sequence[Any]
) -> tuple[Any, ...]:
    """Gradients on the devices of what they are gradients of.

    Args:
        context: The redirection.
        outputs: What `backward` begins at: tensors, or edges of the graph.
        gradients: One for each, or None.

    Returns:
        The gradients themselves where nothing is to be moved.
    """
    return tuple(
        _moved(context, gradient, output.device, "backward")
        if isinstance(gradient, torch.Tensor) and isinstance(output, torch.Tensor)
        else gradient
        for output, gradient in zip(outputs, gradients, strict=True)
    )


def _moved(
    context: Context, gradient: torch.Tensor, device: torch.device, name: str
) -> torch.Tensor:
    if gradient.device == device or "meta" in (gradient.device.type, device.type):
        return gradient
    asked = f"a gradient on {gradient.device} in {name}"
    reason = f"it belongs to a tensor on {device}"
    place, moved = origin(sys._getframe(2)), bytes_of(gradient)
    context.record_cost("adoption", asked, device, reason, place, moved=moved)
    # Past our own mode, which would bring it back from the CPU.
    with torch._C.DisableTorchFunction():
        return gradient.to(device)


def _at_their_inputs(apply: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(apply)
    def apply_and_move(self: Any, *args: Any) -> Any:
        result = apply(self, *args)
        context = current()
        if context is None or context.target.type == "cpu" or is_compiling():
            return result
        gradients = result if isinstance(result, tuple) else (result,)
        wanted = self.needs_input_grad
        if len(gradients) < len(wanted):
            return result  # torch has an error for that
        # An edge leads from each input that requires a gradient, and from no other.
        edges = iter([edge for edge in self.next_functions if edge[0] is not None])
        name = type(self).__name__
        moved = [
            _moved(context, gradient, _device_of(*edge), name)
            if needed and (edge := next(edges, None)) and isinstance(gradient, torch.Tensor)
            else gradient
            for gradient, needed in zip(gradients, wanted, strict=False)
        ]
        moved += gradients[len(wanted) :]
        return tuple(moved) if isinstance(result, tuple) else moved[0]

    return apply_and_move


def _device_of(node: Any, number: int) -> torch.device:
    device: torch.device = node._input_metadata[number].device
    return device


_NODES = torch.autograd.function.BackwardCFunction

PATCHES: tuple[Patch, ...] = tuple(
    Patch(
        lambda: _NODES,
        name,
        _at_their_inputs,
        "the engine checks what a custom `backward` returns before any hook is called",
    )
    for name in ("apply", "apply_boxed")
    if hasattr(_NODES, name)
)

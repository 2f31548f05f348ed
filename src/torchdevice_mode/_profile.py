"""Times every operator, by line of the program: what `profile` asks for.

A dispatch mode sees each operator that runs, in the backward pass too. An accelerator works while
the program goes on, so to time an operator it must be waited for: under this mode a program is
slower, and the times are those of operators one after the other.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ._context import Context
from ._dtypes import bytes_of
from ._ledger import event
from ._origins import origin

__all__ = ["ProfileMode"]

# Operators that copy, and where what they copy stands among their arguments.
_COPIES = {
    "aten::_to_copy": 0,
    "aten::copy_": 1,
    "aten::_copy_from": 0,
    "aten::_copy_from_and_resize": 0,
    "aten::_local_scalar_dense": 0,
}
_PLAIN = (torch.Tensor, torch.nn.Parameter)


class _Timing(threading.local):
    is_on = False


_timing = _Timing()


class ProfileMode(TorchDispatchMode):
    """Times operators, and counts them in the ledger.

    Args:
        context: The redirection.
    """

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.context = context
        self._wait = _wait_for(context.target.type)

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Dynamo skips every frame under a dispatch mode that does not say this."""
        return True

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        mine = self.context.profiled
        # Of nested redirections that both ask for it, one is to time an operator.
        if mine.paused or _timing.is_on:
            with torch._C.DisableTorchFunction():
                return func(*args, **kwargs)
        fallen, mine.latest = mine.seconds, ""
        began = time.perf_counter()
        with torch._C.DisableTorchFunction():
            _timing.is_on = True
            try:
                result = func(*args, **kwargs)
            finally:
                _timing.is_on = False
            device = _device_of(args, kwargs, result)
            if device is None:
                return result  # nothing is computed
            if self._wait is not None and device.type == self.context.target.type:
                self._wait()
        seconds = time.perf_counter() - began
        # A fallback has an entry of its own, with its time.
        if mine.latest != func._schema.name:
            self._count(func, args, result, device, max(seconds - (mine.seconds - fallen), 0.0))
        return result

    def _count(
        self, func: Any, args: tuple[Any, ...], result: Any, device: torch.device, seconds: float
    ) -> None:
        name = func._schema.name
        place = origin(sys._getframe(2))
        route, moved = _copied(name, args, result, device)
        if route:
            what = event("copy", name, route, "timed, as profile asks")
        else:
            what = event("operator", name, str(device), "timed, as profile asks")
        self.context.ledger.count_cost(place, what, moved=moved, seconds=seconds)


def _wait_for(device_type: str) -> Any:
    """What waits until a device has done its work; None for the CPU."""
    if device_type == "cpu":
        return None
    return getattr(getattr(torch, device_type, None), "synchronize", None)


def _device_of(args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> torch.device | None:
    """Where an operator runs: where its first real tensor is, accelerators first."""
    found: torch.device | None = None
    for value in (result, *args, *kwargs.values()):
        for tensor in value if isinstance(value, (list, tuple)) else (value,):
            if type(tensor) in _PLAIN and tensor.device.type != "meta":
                if tensor.device.type != "cpu":
                    return tensor.device
                found = tensor.device
    return found


def _copied(name: str, args: tuple[Any, ...], result: Any, device: torch.device) -> tuple[str, int]:
    """From where to where an operator copies, and how many bytes; empty where it does not."""
    position = _COPIES.get(name)
    source = args[position] if position is not None and len(args) > position else None
    if not isinstance(source, torch.Tensor):
        return "", 0
    to = result.device if isinstance(result, torch.Tensor) else torch.device("cpu")
    if source.device.type == to.type:
        return "", 0
    return f"{source.device} to {to}", bytes_of(source)

"""The other way to redirect: a wrapper that replaces attributes of torch, written to compare with.

It does what it can at the least cost: calls that it does not replace cost nothing, and each that
it does costs one Python function and one dictionary lookup. It redirects what the benchmarks ask
for and little more: see docs/comparison.md for what such wrappers miss.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._device import _device_constructors

_LIKE = ("empty", "full", "ones", "rand", "randint", "randn", "zeros")


@contextmanager
def patched(target: str) -> Iterator[None]:
    """Replace torch's functions that take a device, for a block.

    Args:
        target: Where requests for CUDA, for the CPU and for no device go.
    """
    device = torch.device(target)
    asked = ("cuda", "cuda:0", 0, "cpu", torch.device("cuda"), torch.device("cpu"))
    found: dict[Any, Any] = dict.fromkeys(asked, device)

    def factory(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, device: Any = None, **kwargs: Any) -> Any:
            device = target_device if device is None else found.get(device, device)
            return function(*args, device=device, **kwargs)

        target_device = found["cuda"]
        return call

    def like(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, device: Any = None, **kwargs: Any) -> Any:
            if device is not None:
                device = found.get(device, device)
            return function(*args, device=device, **kwargs)

        return call

    def mover(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if args and isinstance(args[0], (str, int, torch.device)):
                args = (found.get(args[0], args[0]), *args[1:])
            if "device" in kwargs:
                kwargs["device"] = found.get(kwargs["device"], kwargs["device"])
            return function(self, *args, **kwargs)

        return call

    def cuda(self: Any, *_args: Any, **_kwargs: Any) -> Any:
        return self.to(found["cuda"])

    names = {f.__name__ for f in _device_constructors()}
    replaced: list[tuple[Any, str, Any]] = [
        *((torch, n, factory(getattr(torch, n))) for n in names if hasattr(torch, n)),
        *((torch, f"{n}_like", like(getattr(torch, f"{n}_like"))) for n in _LIKE),
        (torch.Tensor, "to", mover(torch.Tensor.to)),
        (torch.nn.Module, "to", mover(torch.nn.Module.to)),
        (torch.Tensor, "cuda", cuda),
        (torch.nn.Module, "cuda", cuda),
        (torch.cuda, "is_available", lambda: True),
        (torch.cuda, "synchronize", lambda *_: None),
    ]
    originals = [(owner, name, vars(owner).get(name)) for owner, name, _ in replaced]
    for owner, name, function in replaced:
        setattr(owner, name, function)
    try:
        yield
    finally:
        for owner, name, original in originals:
            if original is None:
                delattr(owner, name)
            else:
                setattr(owner, name, original)

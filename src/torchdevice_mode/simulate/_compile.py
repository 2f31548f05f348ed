"""`torch.compile` on the simulated device: Inductor would write GPU code for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from .._log import warn_once

__all__ = ["compile_without_inductor"]


_SHADERS = {"mps": "Metal shaders", "cuda": "Triton kernels"}


def compile_without_inductor(device_type: str) -> None:
    """Compile graphs that use the device with `aot_eager` where Inductor is asked for.

    The compiler is reached when `torch.compile` first uses it, so nothing of it is imported here.

    Args:
        device_type: The simulated device.
    """
    import torch

    wrapper = torch._TorchCompileInductorWrapper
    plain_call = wrapper.__call__

    def call(self: Any, model: Any, inputs: Any, **kwargs: Any) -> Any:
        if not any(device == device_type for device in _devices(model, inputs)):
            return plain_call(self, model, inputs, **kwargs)
        warn_once(
            "simulated-compile",
            f"torch.compile's Inductor writes {_SHADERS[device_type]} for {device_type}, which the "
            "simulated device cannot run, so the graph runs operator by operator: ask for "
            "backend='aot_eager' to say so in the program, or measure speed on a real device.",
        )
        return _aot_eager(model, inputs)

    setattr(wrapper, "__call__", call)


def _aot_eager(model: Any, inputs: Any) -> Callable[..., Any]:
    from torch._dynamo.backends.registry import lookup_backend

    return lookup_backend("aot_eager")(model, inputs)


def _devices(model: Any, inputs: Any) -> Iterator[str]:
    """The types of all devices that a captured graph has to do with."""
    import torch

    def of(value: Any) -> Iterator[str]:
        if isinstance(value, (torch.Tensor, torch.device)):
            yield value.type if isinstance(value, torch.device) else value.device.type
        elif isinstance(value, (list, tuple)):
            yield from chain.from_iterable(map(of, value))

    yield from of(list(inputs))
    if isinstance(model, torch.nn.Module):
        yield from of([*model.parameters(), *model.buffers()])
    for module in model.modules() if isinstance(model, torch.nn.Module) else ():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                yield from of([*node.args, *node.kwargs.values()])
                yield from of(node.meta.get("example_value", node.meta.get("val")))

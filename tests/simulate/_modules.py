"""PyTorch's databases of modules and optimizers: what their entries do, on two devices.

No test is here: the conformance run uses it on a real device, too.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch.testing._internal.common_modules import ModuleInfo
from torch.testing._internal.common_optimizers import OptimizerInfo
from torch.utils._pytree import tree_leaves

from ._database import DEVICE, on, seed


def differentiable(value: Any) -> list[torch.Tensor]:
    return [x for x in tree_leaves(value) if isinstance(x, torch.Tensor) and x.requires_grad]


def trained(module: torch.nn.Module, sample: Any, device: torch.device) -> dict[str, Any]:
    """One step forward and backward: the output, gradients and buffers."""
    module = copy.deepcopy(module).to(device)
    args, kwargs = on(device, (sample.forward_input.args, sample.forward_input.kwargs))
    seed()
    output = module(*args, **kwargs)
    seed()
    for result in differentiable(output):
        result.backward(torch.randn(result.shape).to(device), retain_graph=True)
    return {
        "output": output,
        "gradients": {name: p.grad for name, p in module.named_parameters()},
        "input gradients": [x.grad for x in tree_leaves((args, kwargs)) if hasattr(x, "grad")],
        "buffers": dict(module.named_buffers()),
    }


def assert_close(expected: Any, actual: Any) -> None:
    one, other = tree_leaves(expected), tree_leaves(actual)
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        if isinstance(left, torch.Tensor):
            assert right.device == DEVICE
            torch.testing.assert_close(
                right.detach().cpu(), left.detach(), equal_nan=True, rtol=1e-4, atol=1e-4
            )


def made(info: ModuleInfo, training: bool) -> Iterator[tuple[torch.nn.Module, Any]]:
    """Each module that the database has samples for, and the sample."""
    for sample in info.module_inputs_func(
        info, device="cpu", dtype=torch.float32, requires_grad=True, training=training
    ):
        if sample.forward_input is not None:
            given = sample.constructor_input
            yield info.module_cls(*given.args, **given.kwargs).train(training), sample


def stepped(info: OptimizerInfo, settings: dict[str, Any], device: torch.device) -> Any:
    """Weights after three steps, on the CPU."""
    seed()
    weights = [torch.randn(3, 4).to(device).detach().requires_grad_() for _ in range(3)]
    given = on(device, {k: v for k, v in settings.items() if k != "params"})
    optimizer = info.optim_cls(weights, **given)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = sum((w.mm(w.t()) - 1).pow(2).sum() for w in weights)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    return [w.detach().cpu() for w in weights]

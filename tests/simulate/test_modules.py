"""Every module and optimizer of PyTorch's databases does on the simulated device as on the CPU."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

if os.environ.get("TORCHDEVICE_TEST_SIMULATED") not in ("1", "mps"):
    pytest.skip("the device is not simulated in this run", allow_module_level=True)

from torch.testing._internal.common_modules import ModuleInfo, module_db
from torch.testing._internal.common_optimizers import OptimizerInfo, optim_db
from torch.utils._pytree import tree_leaves

from ._database import DEVICE, on, seed

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("metal_refuses_nothing"),
]

CPU = torch.device("cpu")
MODULES = {info.name.removeprefix("nn."): info for info in module_db}
OPTIMIZERS = {info.optim_cls.__name__: info for info in optim_db}


# Rows that fail, and must: the error, and why. The first two fail on the CPU too.
KNOWN_FAILURES = {
    "FractionalMaxPool2d": (RuntimeError, "the database gives it float64 numbers to draw from"),
    "FractionalMaxPool3d": (RuntimeError, "the database gives it float64 numbers to draw from"),
    "SparseAdam": (AssertionError, "it wants sparse gradients, of which this test has none"),
}


def rows(database: dict[str, Any]) -> list[Any]:
    """A database as parameters, the known failures among them as strict xfails."""

    def marks(name: str) -> list[pytest.MarkDecorator]:
        if name not in KNOWN_FAILURES:
            return []
        error, reason = KNOWN_FAILURES[name]
        return [pytest.mark.xfail(raises=error, reason=reason, strict=True)]

    return [pytest.param(info, id=name, marks=marks(name)) for name, info in database.items()]


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


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
@pytest.mark.parametrize("info", rows(MODULES))
def test_modules_train_as_on_the_cpu(info: ModuleInfo, training: bool) -> None:
    seed()
    compared = 0
    for module, sample in made(info, training):
        assert_close(trained(module, sample, CPU), trained(module, sample, DEVICE))
        compared += 1
    assert compared


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


@pytest.mark.parametrize("info", rows(OPTIMIZERS))
def test_optimizers_step_as_on_the_cpu(info: OptimizerInfo) -> None:
    tried = 0
    for sample in info.optim_inputs_func(device="cpu"):
        try:
            expected = stepped(info, sample.kwargs, CPU)
        except (RuntimeError, ValueError):
            continue  # these settings are not for the CPU
        torch.testing.assert_close(
            stepped(info, sample.kwargs, DEVICE), expected, rtol=1e-4, atol=1e-4, equal_nan=True
        )
        tried += 1
    assert tried

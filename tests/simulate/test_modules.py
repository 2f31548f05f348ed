"""Every module and optimizer of PyTorch's databases does on the simulated device as on the CPU."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

if os.environ.get("TORCHDEVICE_TEST_SIMULATED") not in ("1", "mps"):
    pytest.skip("the device is not simulated in this run", allow_module_level=True)

from torch.testing._internal.common_modules import ModuleInfo, module_db
from torch.testing._internal.common_optimizers import OptimizerInfo, optim_db

from ._database import DEVICE, seed
from ._modules import assert_close, made, stepped, trained

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


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
@pytest.mark.parametrize("info", rows(MODULES))
def test_modules_train_as_on_the_cpu(info: ModuleInfo, training: bool) -> None:
    seed()
    compared = 0
    for module, sample in made(info, training):
        assert_close(trained(module, sample, CPU), trained(module, sample, DEVICE))
        compared += 1
    assert compared


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

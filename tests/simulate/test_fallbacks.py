"""Operators that the device lacks give what the CPU gives: PyTorch's database, redirected.

Every operator that can be taken from the simulated device is taken at once, so that the kernels
under test run nearly everything; then the operators that Metal really lacks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

if os.environ.get("TORCHDEVICE_TEST_SIMULATED") not in ("1", "mps"):
    pytest.skip("the device is not simulated in this run", allow_module_level=True)

from torch.testing._internal.opinfo.core import OpInfo

from torchdevice_mode import redirect, simulate

from ._database import OPERATORS, assert_same, gradients, on_both
from .known_differences import KNOWN_DIFFERENCES
from .test_operators import (
    backward_dtypes,
    few_dtypes,
    parameters,
    run,
    run_in_place,
    run_with_out,
    takes_out,
)

pytestmark = pytest.mark.filterwarnings("ignore")

# What the kernels under test are made of, and what only a device's own kernel can do.
_NEEDED = frozenset(
    (
        "aten::resize_",
        "aten::_local_scalar_dense",
        "aten::random_",
        "aten::conj_physical_",
        "aten::convolution_overrideable",
        "aten::convolution_backward_overrideable",
    )
)


def _can_be_taken(name: str) -> bool:
    schema = torch._C._get_schema(name.partition(".")[0], name.partition(".")[2])
    makes_view = any(
        argument.alias_info is not None and not argument.alias_info.is_write
        for argument in schema.arguments
    )
    return name.startswith("aten::") and not makes_view and name.partition(".")[0] not in _NEEDED


@contextmanager
def everything_missing() -> Iterator[None]:
    """Take away each operator that makes no view."""
    registered = torch._C._dispatch_get_registrations_for_dispatch_key("MPS")
    taken = [n for n in registered if _can_be_taken(n) and simulate._set_missing(n, True)]
    assert len(taken) > 800
    try:
        yield
    finally:
        for name in taken:
            simulate._set_missing(name, False)


# Other random numbers are drawn, by a generator that follows from the device's.
_RANDOM = ("rand", "normal", "bernoulli", "multinomial", "dropout", "cauchy", "exponential")
_RANDOM += ("geometric", "uniform", "log_normal", "svd_lowrank", "pca_lowrank", "rrelu", "poisson")
_RANDOM += ("fractional_max_pool", "scaled_dot_product_attention", "multi_head_attention")
# What differs for a reason.
_OTHERWISE = {
    "native_layer_norm": "torch makes it of other operators where a kernel is missing",
    "nn.functional.layer_norm": "torch makes it of other operators where a kernel is missing",
    "bincount": "its result has float64 on the CPU, which the device lacks",
    "linalg.householder_product": "its gradient is summed in another order",
}


def _compared(name: str) -> bool:
    random = any(part in name for part in _RANDOM) and not name.startswith("nn.functional.norm")
    return not random and name not in KNOWN_DIFFERENCES and name not in _OTHERWISE


NAMES = [name for name in OPERATORS if _compared(name)]
SAMPLES = 12


@pytest.fixture(scope="module", autouse=True)
def without_kernels() -> Iterator[None]:
    with everything_missing(), redirect(policy="explicit", float64="error"):
        yield


@pytest.mark.parametrize("op", parameters("result", NAMES))
def test_results_come_back(op: OpInfo) -> None:
    for expected, actual in on_both(op, few_dtypes(op), run, most=SAMPLES):
        assert_same(op, expected, actual, strides=False)


@pytest.mark.parametrize(
    "op", parameters("gradient", [name for name in NAMES if backward_dtypes(OPERATORS[name])])
)
def test_gradients_come_back(op: OpInfo) -> None:
    for expected, actual in on_both(op, backward_dtypes(op), gradients, grad=True, most=SAMPLES):
        assert_same(op, expected, actual, strides=False)


@pytest.mark.parametrize(
    "op", parameters("in_place", [name for name in NAMES if OPERATORS[name].inplace_variant])
)
def test_in_place_writes_into_the_argument(op: OpInfo) -> None:
    for expected, actual in on_both(op, few_dtypes(op), run_in_place, most=SAMPLES):
        assert_same(op, expected, actual, strides=False)


@pytest.mark.parametrize(
    "op", parameters("out", [name for name in NAMES if takes_out(name, OPERATORS[name])])
)
def test_out_receives_the_result(op: OpInfo) -> None:
    for sized in (True, False):
        writing = run_with_out(sized=sized)
        for expected, actual in on_both(op, few_dtypes(op), writing, most=SAMPLES):
            assert_same(op, expected, actual, strides=False)

"""Every operator of PyTorch's database gives on the simulated device what it gives on the CPU."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

if os.environ.get("TORCHDEVICE_TEST_SIMULATED") not in ("1", "mps"):
    pytest.skip("the device is not simulated in this run", allow_module_level=True)

from torch.testing._internal.opinfo.core import OpInfo, SampleInput
from torch.utils._pytree import tree_map

from ._database import DTYPES, OPERATORS, Run, assert_same, call, gradients, inputs_on, on_both
from .known_differences import KNOWN_DIFFERENCES

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("metal_refuses_nothing"),
]


def parameters(check: str, names: list[str]) -> list[Any]:
    """Operators as parameters, each with its row of the known differences as a strict xfail."""
    rows = []
    for name in names:
        known = KNOWN_DIFFERENCES.get(name)
        marks = []
        if known is not None and check in known.checks:
            marks = [pytest.mark.xfail(raises=known.error, reason=known.reason, strict=True)]
        rows.append(pytest.param(OPERATORS[name], id=name, marks=marks))
    return rows


def takes_out(name: str, op: OpInfo) -> bool:
    return op.supports_out and not name.startswith("_foreach")  # in C++ they do


def backward_dtypes(op: OpInfo) -> list[torch.dtype]:
    supported = op.supported_backward_dtypes("cpu") if op.supports_autograd else set()
    return [dtype for dtype in (torch.float32, torch.complex64) if dtype in supported]


def few_dtypes(op: OpInfo) -> list[torch.dtype]:
    """One of each kind, or the first that the operator has."""
    kinds = (torch.float32, torch.int64, torch.complex64)
    found = [dtype for dtype in kinds if dtype in op.dtypes]
    return found or [dtype for dtype in (*DTYPES, *op.dtypes) if dtype in op.dtypes][:1]


def run(op: OpInfo, sample: SampleInput, device: torch.device) -> Run:
    return call(op, *inputs_on(device, op, sample))


def run_in_place(op: OpInfo, sample: SampleInput, device: torch.device) -> Run | None:
    if sample.broadcasts_input:
        return None
    args, kwargs = inputs_on(device, op, sample)
    done = call(op.inplace_variant, args, kwargs)
    assert done.result is args[0]
    return done


def run_with_out(*, sized: bool) -> Any:
    def run_out(op: OpInfo, sample: SampleInput, device: torch.device) -> Run:
        result = run(op, sample, device).result
        out = tree_map(lambda x: torch.zeros_like(x) if sized else x.new_empty(0), result)
        return call(op, *inputs_on(device, op, sample), out=out)._replace(inputs=out)

    return run_out


@pytest.mark.parametrize("op", parameters("result", list(OPERATORS)))
def test_results_and_inputs_are_those_of_the_cpu(op: OpInfo) -> None:
    dtypes = [dtype for dtype in DTYPES if dtype in op.dtypes] or few_dtypes(op)
    for expected, actual in on_both(op, dtypes, run):
        assert_same(op, expected, actual)


@pytest.mark.parametrize(
    "op", parameters("gradient", [name for name, op in OPERATORS.items() if backward_dtypes(op)])
)
def test_gradients_are_those_of_the_cpu(op: OpInfo) -> None:
    for expected, actual in on_both(op, backward_dtypes(op), gradients, grad=True):
        assert_same(op, expected, actual, strides=False)


@pytest.mark.parametrize(
    "op", parameters("in_place", [name for name, op in OPERATORS.items() if op.inplace_variant])
)
def test_in_place_writes_what_the_cpu_writes(op: OpInfo) -> None:
    for expected, actual in on_both(op, few_dtypes(op), run_in_place):
        assert_same(op, expected, actual)


@pytest.mark.parametrize(
    "op", parameters("out", [name for name, op in OPERATORS.items() if takes_out(name, op)])
)
def test_out_receives_what_the_cpu_writes(op: OpInfo) -> None:
    for sized in (True, False):
        for expected, actual in on_both(op, few_dtypes(op), run_with_out(sized=sized)):
            assert_same(op, expected, actual)


@pytest.mark.parametrize("name", KNOWN_DIFFERENCES)
def test_known_differences_are_of_operators_that_exist(name: str) -> None:
    assert name in OPERATORS


@pytest.mark.parametrize(
    "wrong",
    [
        torch.tensor([1.0, 2.5], device="mps"),
        torch.tensor([1.0, 2.0]),
        torch.tensor([1, 2], device="mps"),
        torch.tensor([[1.0, 2.0]], device="mps"),
        torch.tensor([1.0, 0.0, 2.0], device="mps")[::2],
        [torch.tensor([1.0, 2.0], device="mps")] * 2,
    ],
    ids=["values", "device", "dtype", "shape", "strides", "number"],
)
def test_the_comparison_sees_a_difference(wrong: Any) -> None:
    expected = torch.tensor([1.0, 2.0])
    assert_same(OPERATORS["abs"], expected, expected.to("mps"))
    with pytest.raises(AssertionError):
        assert_same(OPERATORS["abs"], expected, wrong)

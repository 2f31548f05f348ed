"""Every operator of PyTorch's database takes any one of its operands from the CPU.

It gives what it gives where all are on the CPU, and changes what it changes there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch

if os.environ.get("TORCHDEVICE_TEST_SIMULATED") not in ("1", "mps"):
    pytest.skip("the device is not simulated in this run", allow_module_level=True)

from torch.testing._internal.opinfo.core import OpInfo
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

import torchdevice_mode

from ._database import (
    _OTHER_ROUNDINGS,
    DEVICE,
    OPERATORS,
    REFUSED_DTYPES,
    UNINITIALIZED,
    call,
    inputs_on,
    samples,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("metal_refuses_nothing"),
]

CPU = torch.device("cpu")
# Factories, whose samples name a device that `out` is not on: torch's error, as on CUDA.
NAMES_A_DEVICE = frozenset(
    {"arange", "linspace", "linspace.tensor_overload", "logspace", "logspace.tensor_overload"}
    | {"randn", "ones", "zeros", "full", "eye", "empty", "normal.number_mean"}
)
# Their `out=` returns nothing, or other tensors than it was given, on any device.
RETURNS_NO_OUT = frozenset({"split_with_sizes_copy", "unbind_copy", "native_batch_norm"})


def operands(value: Any) -> list[int]:
    """Which leaves are tensors that cannot be on another device than others: not numbers."""
    leaves = tree_leaves(value)
    return [i for i, x in enumerate(leaves) if isinstance(x, torch.Tensor) and x.dim()]


def emptied(results: Any) -> Any:
    """Tensors on the CPU that results can be written into."""
    given = tree_map(lambda x: torch.zeros_like(x, requires_grad=False), results)
    return tuple(given) if isinstance(given, list) else given


def cases(op: OpInfo, function: Any, *, out: bool) -> Iterator[tuple[Any, ...]]:
    """For each operand that is left: what a call gives on the CPU, and what it gives redirected."""
    first = [*samples(op, torch.float32, most=1)] if torch.float32 in op.dtypes else []
    for sample in first:
        if function is op.inplace_variant and sample.broadcasts_input:
            continue
        try:
            plain_inputs = inputs_on(CPU, op, sample)
            plain = call(function, *plain_inputs)
            if out:
                call(function, *inputs_on(CPU, op, sample), out=emptied(plain.result))
            inputs_on(DEVICE, op, sample)
        except Exception:  # what the CPU refuses, or the device cannot hold, is nobody's question
            continue
        if any(
            isinstance(x, torch.Tensor) and x.dtype in REFUSED_DTYPES
            for x in tree_leaves((plain.result, plain.inputs))
        ):
            continue
        places = operands(plain_inputs)
        wanted = ["out"] if out else places if len(places) > 1 else []
        for left in islice(wanted, 4):
            leaves, spec = tree_flatten(inputs_on(DEVICE, op, sample))
            more = {"out": emptied(plain.result)} if out else {}
            if not out:
                leaves[left] = leaves[left].detach().cpu()
            devices = [x.device for x in leaves if isinstance(x, torch.Tensor)]
            inputs = tree_unflatten(leaves, spec)
            with torchdevice_mode.redirect(policy="explicit"):
                actual = call(function, *inputs, **more)
            assert devices == [x.device for x in leaves if isinstance(x, torch.Tensor)]
            yield plain, actual, leaves, more


def assert_equal(op: OpInfo, plain: Any, actual: Any) -> None:
    tolerance = _OTHER_ROUNDINGS.get(op.name, {})
    for one, other in zip(tree_leaves(plain), tree_leaves(actual), strict=True):
        if isinstance(one, torch.Tensor) and op.name not in UNINITIALIZED:
            torch.testing.assert_close(
                other.detach().cpu(), one.detach(), equal_nan=True, **tolerance
            )


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operand_comes_from_the_cpu(name):
    op = OPERATORS[name]
    for plain, actual, _, _ in cases(op, op.op, out=False):
        assert_equal(op, (plain.result, plain.inputs), (actual.result, actual.inputs))


@pytest.mark.parametrize("name", [name for name in OPERATORS if OPERATORS[name].inplace_variant])
def test_an_operand_of_an_operator_in_place_comes_from_the_cpu(name):
    op = OPERATORS[name]
    for plain, actual, leaves, _ in cases(op, op.inplace_variant, out=False):
        assert_equal(op, (plain.result, plain.inputs), (actual.result, actual.inputs))
        if isinstance(actual.result, torch.Tensor):
            assert actual.result is leaves[0]


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in OPERATORS
        if OPERATORS[name].supports_out and name not in NAMES_A_DEVICE | RETURNS_NO_OUT
    ],
)
def test_a_result_is_written_to_the_cpu(name):
    op = OPERATORS[name]
    for plain, actual, _, more in cases(op, op.op, out=True):
        assert_equal(op, (plain.result, plain.inputs), (actual.result, actual.inputs))
        pairs = zip(tree_leaves(actual.result), tree_leaves(more), strict=True)
        assert all(result is given for result, given in pairs)

"""PyTorch's operator database on two devices: samples, copies, and what equal means."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.testing._internal.common_methods_invocations import (
    foreach_binary_op_db,
    foreach_other_op_db,
    foreach_pointwise_op_db,
    foreach_reduce_op_db,
    foreach_unary_op_db,
    op_db,
)
from torch.testing._internal.opinfo.core import OpInfo, SampleInput
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("mps", 0)

# torch writes these for CUDA alone; the CPU takes no sample of theirs.
_CUDA_ONLY = (
    "jiterator_",
    "nn.functional.batch_norm.without_cudnn",
    "jiterator_",
    "torch.ops.aten._flash_attention",
    "torch.ops.aten._efficient_attention",
)


def has_cpu_kernel(op: OpInfo) -> bool:
    """Whether torch 2.11 too can run an operator that torch 2.13 has a CPU kernel for."""
    if op.full_name != "torch._scaled_mm_v2":
        return True
    return torch._C._dispatch_has_kernel_for_dispatch_key("aten::_scaled_mm_v2", "CPU")


OPERATORS: dict[str, OpInfo] = {
    op.full_name: op
    for op in [
        *op_db,
        *foreach_unary_op_db,
        *foreach_binary_op_db,
        *foreach_pointwise_op_db,
        *foreach_reduce_op_db,
        *foreach_other_op_db,
    ]
    if not op.full_name.startswith(_CUDA_ONLY) and has_cpu_kernel(op)
}

DTYPES = (
    torch.float32,
    torch.int64,
    torch.bool,
    torch.complex64,
    torch.float16,
    torch.bfloat16,
    torch.uint8,
    torch.int32,
)

SAMPLES = 100  # of each operator, dtype and test; some operators have hundreds
_FEWER_SAMPLES = {"grid_sampler_3d": 3}  # a hundred times slower than the others

REFUSED_DTYPES = frozenset({torch.float64, torch.complex128})

# Their values are whatever the memory held.
UNINITIALIZED = frozenset(
    {"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"}
)

# torch wants these arguments on the CPU, wherever the others are.
_CPU_ARGUMENTS = frozenset({"tensor_split"})

# The database does not name a device for these.
_FACTORIES = frozenset({"arange", "linspace", "linspace.tensor_overload"})

# torch takes another way on the CPU: a fused kernel, or sums of another dtype.
_OTHER_ROUNDINGS = {
    "nn.functional.scaled_dot_product_attention": {"rtol": 2e-2, "atol": 3e-3},
    "nn.functional.linear_cross_entropy": {"rtol": 2e-2, "atol": 1e-2},
}


class Run(NamedTuple):
    """What an operator returned, its inputs afterwards, and which share memory."""

    result: Any
    inputs: Any
    shared: Any = ()


def seed() -> None:
    random.seed(0)
    np.random.seed(0)
    # torch.manual_seed also queues a call, with a stack trace, for every device that is not there.
    torch.default_generator.manual_seed(0)
    torch.mps.manual_seed(0)


def samples(
    op: OpInfo, dtype: torch.dtype, *, grad: bool = False, most: int = SAMPLES
) -> list[SampleInput]:
    """The first samples of the database, always the same."""
    seed()
    count = min(most, _FEWER_SAMPLES.get(op.full_name, SAMPLES))
    # op.sample_inputs() would do, but looks through the whole stack for the test's name.
    return list(islice(op.sample_inputs_func(op, "cpu", dtype, requires_grad=grad), count))


def on(device: torch.device, value: Any) -> Any:
    """A copy on a device, of tensors and of what names a device."""

    def moved(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return leaf.detach().clone().to(device).requires_grad_(leaf.requires_grad)
        if isinstance(leaf, torch.Generator):
            return torch.Generator(device).manual_seed(leaf.initial_seed())
        names_cpu = isinstance(leaf, torch.device) or (isinstance(leaf, str) and leaf == "cpu")
        return device if names_cpu else leaf

    return tree_map(moved, value)


def inputs_on(device: torch.device, op: OpInfo, sample: SampleInput) -> tuple[list, dict]:
    """Positional and keyword arguments of a sample, on a device."""
    first = on(device, sample.input)
    args = sample.args if op.full_name in _CPU_ARGUMENTS else on(device, sample.args)
    kwargs = on(device, sample.kwargs)
    if op.full_name in _FACTORIES:
        kwargs.setdefault("device", device)
    return [first, *args], kwargs


def call(op: Any, args: list, kwargs: dict, **more: Any) -> Run:
    seed()
    # Past the database's own frame, so that it is the test that calls torch.
    function = op.op if isinstance(op, OpInfo) else op
    result = function(*args, **kwargs, **more)
    return Run(result, (args, kwargs), shared_memory(result, (args, kwargs)))


def shared_memory(result: Any, inputs: Any) -> list[tuple[int, int, bool]]:
    """Pairs of result and input over the same memory, and whether they are the same object."""

    def storage(tensor: Any) -> int:
        strided = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided
        return tensor.untyped_storage()._cdata if strided else 0

    given = [(i, x, storage(x)) for i, x in enumerate(tree_leaves(inputs)) if storage(x)]
    return [
        (r, i, one is other)
        for r, one in enumerate(tree_leaves(result))
        for i, other, memory in given
        if storage(one) == memory
    ]


def gradients(op: OpInfo, sample: SampleInput, device: torch.device) -> Run | None:
    """The result, and what backward leaves on each input that requires a gradient."""
    run = call(op, *inputs_on(device, op, sample))
    result = run.result
    if sample.output_process_fn_grad is not None:
        result = sample.output_process_fn_grad(result)
    wanted = [x for x in tree_leaves(run.inputs) if _requires_grad(x)]
    outputs = [x for x in tree_leaves(result) if _requires_grad(x)]
    if not outputs:
        return None
    seed()
    weights = [torch.randn(x.shape, dtype=x.dtype).to(x.device) for x in outputs]
    return Run(run.result, torch.autograd.grad(outputs, wanted, weights, allow_unused=True))


class NothingCompared(AssertionError):
    """The CPU accepted no sample, so the test says nothing."""


def on_both(
    op: OpInfo,
    dtypes: list[torch.dtype],
    function: Any,
    *,
    grad: bool = False,
    most: int = SAMPLES,
) -> Iterator[tuple[Any, Any]]:
    """What a function gives on the CPU and on the device, for each sample the CPU accepts.

    What has float64 in it must be refused by the device, and is then left out.
    """
    compared = 0
    for dtype in dtypes:
        for sample in samples(op, dtype, grad=grad, most=most):
            try:
                expected = function(op, sample, torch.device("cpu"))
            except Exception:  # what the CPU refuses, in whatever way, is nobody's question
                continue
            if expected is None:
                continue
            compared += 1
            if _refused(expected) or _refused((sample.input, sample.args, sample.kwargs)):
                assert_refused(function, op, sample)
            else:
                yield expected, function(op, sample, DEVICE)
    if not compared:
        raise NothingCompared(f"the CPU refuses every sample of {op.full_name}")


def assert_refused(function: Any, op: OpInfo, sample: SampleInput) -> None:
    try:
        function(op, sample, DEVICE)
    except TypeError as error:
        assert "MPS" in str(error)
        return
    raise AssertionError(f"float64 was not refused: {sample}")


def assert_same(op: OpInfo, expected: Any, given: Any, *, strides: bool = True) -> None:
    """Equal in structure, and tensors in shape, dtype and values; the actual on the device."""
    left, right = tree_leaves(expected), tree_leaves(given)
    assert len(left) == len(right), f"{len(right)} results instead of {len(left)}"
    for one, other in zip(left, right, strict=True):
        if not isinstance(one, torch.Tensor):
            assert one == other or (one != one and other != other) or one == torch.device("cpu")
            continue
        if op.full_name not in _CPU_ARGUMENTS:
            assert other.device == DEVICE, f"the result is on {other.device}"
        assert one.shape == other.shape, f"shape {other.shape} instead of {one.shape}"
        assert one.layout == other.layout
        if strides and one.layout == torch.strided:
            assert one.stride() == other.stride(), f"{other.stride()} instead of {one.stride()}"
        assert one.dtype == other.dtype, f"{other.dtype} instead of {one.dtype}"
        assert one.requires_grad == other.requires_grad
        assert (one.is_conj(), one.is_neg()) == (other.is_conj(), other.is_neg())
        if op.name not in UNINITIALIZED:
            actual, wanted = other.detach().cpu(), one.detach().cpu()
            # Nearly all are, and to find that out takes a tenth of the time of the comparison.
            comparable = wanted.layout == torch.strided and wanted.dtype in DTYPES
            if comparable and torch.equal(actual, wanted):
                continue
            tolerance = _OTHER_ROUNDINGS.get(op.name, {})
            torch.testing.assert_close(actual, wanted, equal_nan=True, **tolerance)


def _requires_grad(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def _refused(value: Any) -> bool:
    return any(
        isinstance(leaf, torch.Tensor) and leaf.dtype in REFUSED_DTYPES
        for leaf in tree_leaves(value)
    )

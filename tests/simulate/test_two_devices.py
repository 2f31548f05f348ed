"""A CPU tensor among tensors of the device: refused in the words that Metal has for the operator.

Each row is a program of two devices. On plain torch it raises the text; redirected, as CUDA code,
it gives what it gives on the CPU alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from torchdevice_mode import redirect

pytestmark = pytest.mark.simulated_mps

Program = Callable[[str], Any]


def numbers(*size: int, device: str = "cpu") -> torch.Tensor:
    count = int(torch.tensor(size).prod())
    return (torch.arange(count, dtype=torch.float32) / 7 - 0.5).reshape(size).to(device)


def module(kind: Any, *args: Any, **options: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return kind(*args, **options)


def at(*places: int, device: str = "cpu") -> torch.Tensor:
    return torch.tensor(places, device=device)


ITERATOR = (
    "Expected all tensors to be on the same device, but found at least two devices, mps:0 and cpu!"
)
GRAPH = "Placeholder storage has not been allocated on MPS device!"
KERNEL = "Passed CPU tensor to MPS op"
UNTRUE = (
    "Expected {} to be true, but got false.  (Could this error message be improved?  If so, please "
    "report an enhancement request to PyTorch.)"
)
ON_CPU = (
    "Tensor for argument #{} '{}' is on CPU, but expected it to be on GPU (while checking "
    "arguments for {})"
)
INDEXED = (
    "{}_(): self, index and source expected to be in the same device, but got (self) mps:0, "
    "(index) cpu, and (source) {}"
)
SEARCHED = (
    "torch.searchsorted(): boundaries and input value tensors should have same device type, but "
    "got boundaries tensor device type {} and input value tensor device type {}"
)

PROGRAMS: dict[str, tuple[str, Program]] = {
    # elementwise: the iterator
    "cpu + mps": (ITERATOR, lambda d: numbers(3) + numbers(3, device=d)),
    "mps + cpu": (ITERATOR, lambda d: numbers(3, device=d) + numbers(3)),
    "lerp": (ITERATOR, lambda d: torch.lerp(numbers(3, device=d), numbers(3), 0.5)),
    "addcmul": (ITERATOR, lambda d: torch.addcmul(numbers(3, device=d), numbers(3), numbers(3))),
    "compare": (ITERATOR, lambda d: numbers(3, device=d) < numbers(3)),
    "where": (
        ITERATOR,
        lambda d: torch.where(numbers(3, device=d) > 0, numbers(3), numbers(3, device=d)),
    ),
    "mse_loss": (ITERATOR, lambda d: F.mse_loss(numbers(3, device=d), numbers(3))),
    "equal": (ITERATOR, lambda d: torch.equal(numbers(3, device=d), numbers(3))),
    "assigning by index": (ITERATOR, lambda d: assigned(numbers(3, device=d), numbers(2))),
    # fed to MPSGraph
    "embedding": (GRAPH, lambda d: module(torch.nn.Embedding, 3, 2).to(d)(at(1, 2))),
    "index_select": (GRAPH, lambda d: numbers(3, device=d).index_select(0, at(1))),
    "bmm": (GRAPH, lambda d: numbers(2, 3, 3, device=d) @ numbers(2, 3, 3)),
    "logical_and": (GRAPH, lambda d: torch.logical_and(numbers(3, device=d), numbers(3))),
    "cross_entropy": (GRAPH, lambda d: F.cross_entropy(numbers(2, 3, device=d), at(0, 1))),
    "binary_cross_entropy": (
        GRAPH,
        lambda d: F.binary_cross_entropy(numbers(3, device=d).sigmoid(), numbers(3).sigmoid()),
    ),
    "batch_norm": (GRAPH, lambda d: module(torch.nn.BatchNorm1d, 3)(numbers(2, 3, device=d))),
    "prelu": (GRAPH, lambda d: module(torch.nn.PReLU, 3)(numbers(2, 3, device=d))),
    "index without dimensions": (
        GRAPH,
        lambda d: numbers(3, device=d).index_select(0, torch.tensor(1)),
    ),
    # bound to a kernel
    "cat": (KERNEL, lambda d: torch.cat([numbers(3, device=d), numbers(3)])),
    "stack": (KERNEL, lambda d: torch.stack([numbers(3), numbers(3, device=d)])),
    "gather": (KERNEL, lambda d: numbers(2, 2, device=d).gather(0, torch.tensor([[0, 1]]))),
    "scatter_add": (
        KERNEL,
        lambda d: numbers(3, device=d).scatter_add(0, at(1), numbers(1, device=d)),
    ),
    "layer_norm": (KERNEL, lambda d: module(torch.nn.LayerNorm, 3)(numbers(2, 3, device=d))),
    "group_norm": (KERNEL, lambda d: module(torch.nn.GroupNorm, 1, 2)(numbers(1, 2, 2, device=d))),
    "embedding_bag": (
        KERNEL,
        lambda d: module(torch.nn.EmbeddingBag, 3, 2).to(d)(at(1, 2), at(0)),
    ),
    # what says so itself
    "linear": (
        "Tensor for argument weight is on cpu but expected on mps",
        lambda d: module(torch.nn.Linear, 3, 2)(numbers(2, 3, device=d)),
    ),
    "linear of a CPU tensor": (
        "Tensor for argument input is on cpu but expected on mps",
        lambda d: module(torch.nn.Linear, 3, 2).to(d)(numbers(2, 3)),
    ),
    "bias of linear": (
        "Tensor for argument bias is on cpu but expected on mps",
        lambda d: F.linear(numbers(2, 3, device=d), numbers(2, 3, device=d), numbers(2)),
    ),
    "cpu @ mps": (
        ON_CPU.format(1, "mat1", "mm"),
        lambda d: numbers(3, 3) @ numbers(3, 3, device=d),
    ),
    "mps @ cpu": (
        ON_CPU.format(2, "mat2", "mm"),
        lambda d: numbers(3, 3, device=d) @ numbers(3, 3),
    ),
    "addmm": (
        ON_CPU.format(2, "mat1", "addmm"),
        lambda d: torch.addmm(numbers(3, 3, device=d), numbers(3, 3), numbers(3, 3, device=d)),
    ),
    "baddbmm": (
        UNTRUE.format("batch2.is_mps()"),
        lambda d: torch.baddbmm(*[numbers(2, 3, 3, device=d)] * 2, numbers(2, 3, 3)),
    ),
    "mv": (UNTRUE.format("vec.is_mps()"), lambda d: numbers(2, 3, device=d) @ numbers(3)),
    "dot": (
        "Expected all tensors to be on the same device. Found: mps:0, cpu",
        lambda d: numbers(3, device=d) @ numbers(3),
    ),
    "conv2d": (
        "Input type (MPSFloatType) and weight type (torch.FloatTensor) should be the same",
        lambda d: module(torch.nn.Conv2d, 1, 2, 2)(numbers(1, 1, 3, 3, device=d)),
    ),
    "conv2d of a CPU tensor": (
        "slow_conv2d_forward_mps: input(device='cpu') and weight(device=mps:0')  must be on the "
        "same device",
        lambda d: module(torch.nn.Conv2d, 1, 2, 2).to(d)(numbers(1, 1, 3, 3)),
    ),
    "lstm": (
        "Input and parameter tensors are not at the same device, found input tensor at mps:0 and "
        "parameter tensor at cpu",
        lambda d: module(torch.nn.LSTM, 3, 2)(numbers(2, 1, 3, device=d))[0],
    ),
    "attention": (
        "Expected query, key, and value to have the same device type, but got query.device: mps:0 "
        "key.device: cpu and value.device: cpu instead.",
        lambda d: F.scaled_dot_product_attention(
            numbers(1, 1, 2, 2, device=d), numbers(1, 1, 2, 2), numbers(1, 1, 2, 2)
        ),
    ),
    "index of a CPU tensor": (
        "indices should be either on cpu or on the same device as the indexed tensor (cpu)",
        lambda d: numbers(3)[at(1, device=d)],
    ),
    "masked_fill": (
        "expected self and mask to be on the same device, but got mask on cpu and self on mps:0",
        lambda d: numbers(3, device=d).masked_fill(numbers(3) > 0, 1.0),
    ),
    "isin": (
        UNTRUE.format("elements.is_mps() && test_elements.is_mps()"),
        lambda d: torch.isin(at(1, 2, device=d), at(2)),
    ),
    "index_add": (
        INDEXED.format("index_add", "mps:0"),
        lambda d: numbers(3, device=d).index_add(0, at(1), numbers(1, device=d)),
    ),
    "index_copy": (
        INDEXED.format("index_copy", "cpu"),
        lambda d: numbers(3, device=d).index_copy(0, at(1), numbers(1)),
    ),
    "bucketize": (
        SEARCHED.format("cpu", "mps:0"),
        lambda d: torch.bucketize(numbers(3, device=d), numbers(3)),
    ),
    "searchsorted": (
        SEARCHED.format("mps:0", "cpu"),
        lambda d: torch.searchsorted(numbers(3, device=d), numbers(3)),
    ),
}


def assigned(tensor: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    tensor[at(0, 2)] = values
    return tensor


@pytest.mark.parametrize("said, program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_stray_tensor_is_refused_in_metals_words(said: str, program: Program) -> None:
    with pytest.raises(RuntimeError) as raised:
        program("mps")
    assert str(raised.value) == said


@pytest.mark.parametrize("program", [p for _, p in PROGRAMS.values()], ids=PROGRAMS)
def test_a_redirected_program_gets_what_the_cpu_gives(program: Program) -> None:
    expected = program("cpu")
    with redirect(policy="explicit"):
        actual = program("cuda")
    if not isinstance(expected, torch.Tensor):
        assert actual == expected
        return
    assert actual.device.type == "mps"
    torch.testing.assert_close(actual.cpu(), expected)


ALLOWED: dict[str, Program] = {
    "number": lambda d: numbers(3, device=d) + torch.tensor(1.0),
    "number in where": lambda d: torch.where(numbers(3, device=d) > 0, torch.tensor(1.0), 0.0),
    "number in logical_and": lambda d: torch.logical_and(numbers(3, device=d), torch.tensor(True)),
    "number in masked_fill": lambda d: numbers(3, device=d).masked_fill(
        numbers(3, device=d) > 0, torch.tensor(2.0)
    ),
    "index": lambda d: numbers(3, device=d)[at(1)],
    "mask": lambda d: numbers(3, device=d)[numbers(3) > 0],
    "mask of masked_select": lambda d: numbers(3, device=d).masked_select(numbers(3) > 0),
    "assigning a number": lambda d: assigned(numbers(3, device=d), torch.tensor(3.0)),
    "copy_": lambda d: numbers(3, device=d).copy_(numbers(3)),
}


@pytest.mark.parametrize("program", ALLOWED.values(), ids=ALLOWED)
def test_what_metal_takes_from_the_cpu_is_taken(program: Program) -> None:
    result = program("mps")
    assert result.device == torch.device("mps", 0)
    torch.testing.assert_close(result.cpu(), program("cpu"))


SHAPES = [((2, 3), (4, 3)), ((3,), (4, 3)), ((2, 5, 3), (4, 3)), ((0, 3), (4, 3)), ((2, 3), (3,))]


@pytest.mark.parametrize("input_shape, weight_shape", SHAPES, ids=str)
def test_gradients_of_linear_are_the_cpus(
    input_shape: tuple[int, ...], weight_shape: tuple[int, ...]
) -> None:
    def gradients(device: str) -> list[torch.Tensor]:
        x = numbers(*input_shape, device=device).requires_grad_()
        w = numbers(*weight_shape, device=device).requires_grad_()
        b = (
            numbers(*weight_shape[:-1], device=device).requires_grad_()
            if weight_shape[1:]
            else None
        )
        given = [t for t in (x, w, b) if t is not None]
        once = torch.autograd.grad(F.linear(x, w, b).sin().sum(), given, create_graph=True)
        if len(weight_shape) == 1:
            return [g.detach().cpu() for g in once]
        twice = torch.autograd.grad(sum(g.pow(2).sum() for g in once), given)
        return [g.detach().cpu() for g in (*once, *twice)]

    torch.testing.assert_close(gradients("mps"), gradients("cpu"))

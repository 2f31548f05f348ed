"""Sparse COO tensors on the simulated device; it has no compressed ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

if os.environ.get("TORCHDEVICE_TEST_SIMULATED") not in ("1", "mps"):
    pytest.skip("the device is not simulated in this run", allow_module_level=True)

from torchdevice_mode import simulate

pytestmark = pytest.mark.filterwarnings("ignore:Sparse:UserWarning")

# Each takes a sparse and a dense tensor of shape (3, 3); the first has a doubled index.
OPERATIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "coalesce": lambda s, d: s.coalesce(),
    "is_coalesced": lambda s, d: (s.is_coalesced(), s.coalesce().is_coalesced()),
    "to_dense": lambda s, d: s.to_dense(),
    "to_sparse": lambda s, d: d.relu().to_sparse(),
    "clone": lambda s, d: s.clone(),
    "half": lambda s, d: s.half(),
    "indices": lambda s, d: s.coalesce().indices(),
    "values": lambda s, d: s.coalesce().values(),
    "t": lambda s, d: s.t(),
    "add": lambda s, d: s + s,
    "add_to_dense": lambda s, d: d.add_(s),
    "add_in_place": lambda s, d: s.add_(s),
    "mul": lambda s, d: s * 2,
    "mul_in_place": lambda s, d: s.mul_(2),
    "zero_in_place": lambda s, d: s.zero_(),
    "sqrt": lambda s, d: s.coalesce().sqrt(),
    "matmul": lambda s, d: s @ d,
    "sparse_mm": lambda s, d: torch.sparse.mm(s, d),
    "sum": lambda s, d: torch.sparse.sum(s, 0),
    "norm": lambda s, d: s.norm(),
    "softmax": lambda s, d: torch.sparse.softmax(s, 0),
    "cat": lambda s, d: torch.cat([s, s]),
    "index_select": lambda s, d: s.index_select(0, torch.tensor([1], device=s.device)),
    "sparse_mask": lambda s, d: d.sparse_mask(s.coalesce()),
    "sparse_resize": lambda s, d: s.sparse_resize_((5, 5), 2, 0),
    "copy": lambda s, d: s.clone().zero_().copy_(s),
}


def sparse(device: str) -> torch.Tensor:
    indices = torch.tensor([[0, 1, 1], [1, 2, 2]], device=device)
    return torch.sparse_coo_tensor(indices, torch.tensor([1.0, 2.0, 5.0], device=device), (3, 3))


def dense(device: str) -> torch.Tensor:
    return torch.linspace(-1, 1, 9).reshape(3, 3).to(device)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operators_give_what_they_give_on_the_cpu(operation: str) -> None:
    given = {device: (sparse(device), dense(device)) for device in ("cpu", "mps")}
    expected, actual = (OPERATIONS[operation](*given[device]) for device in ("cpu", "mps"))
    if not isinstance(expected, torch.Tensor):
        assert actual == expected
        return
    assert (actual.device.type, actual.layout) == ("mps", expected.layout)
    for one, other in [(actual, expected), *zip(given["mps"], given["cpu"], strict=True)]:
        torch.testing.assert_close(one.cpu().to_dense(), other.to_dense())


def test_values_are_the_memory_that_was_given() -> None:
    values = torch.tensor([1.0, 2.0], device="mps")
    indices = torch.tensor([[0, 1], [1, 2]], device="mps")
    tensor = torch.sparse_coo_tensor(indices, values, (3, 3))
    tensor._values().fill_(7)
    assert values.tolist() == [7, 7]


def test_copies_to_and_from_the_device_are_copies_and_counted() -> None:
    host = sparse("cpu")
    with simulate.counting() as counts:
        there = host.to("mps")
        back = there.to("cpu")
    there.mul_(0)
    assert torch.equal(back.to_dense(), host.to_dense())
    assert there.to_dense().abs().sum().item() == 0
    assert counts.copies_to_device >= 1
    assert counts.copies_from_device >= 1


def test_a_sparse_embedding_learns_as_on_the_cpu() -> None:
    def learned(device: str) -> torch.Tensor:
        torch.manual_seed(0)
        embedding = torch.nn.Embedding(5, 3, sparse=True).to(device)
        optimizer = torch.optim.SparseAdam(embedding.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            embedding(torch.tensor([1, 2, 2], device=device)).pow(2).sum().backward()
            assert embedding.weight.grad.is_sparse
            optimizer.step()
        return embedding.weight.detach().cpu()

    torch.testing.assert_close(learned("mps"), learned("cpu"))


def test_operands_on_different_devices_are_refused() -> None:
    with pytest.raises(RuntimeError, match="same device"):
        sparse("mps") @ dense("cpu")


def test_float64_is_refused() -> None:
    with pytest.raises(TypeError, match="float64"):
        sparse("cpu").double().to("mps")


COMPRESSED: dict[str, tuple[str, Callable[[], Any]]] = {
    "to_sparse_csr": (
        "'aten::_to_sparse_csr' is not currently",
        lambda: dense("mps").to_sparse_csr(),
    ),
    "to_sparse_csc": (
        "'aten::_to_sparse_csc' is not currently",
        lambda: dense("mps").to_sparse_csc(),
    ),
    "move": (
        "Could not run 'new_compressed_tensor' from the 'mps:0' device",
        lambda: dense("cpu").to_sparse_csr().to("mps"),
    ),
    "make": (
        "Could not run 'new_compressed_tensor' from the 'mps:0' device",
        lambda: torch.sparse_csr_tensor([0, 1], [0], [1.0], device="mps"),
    ),
}


@pytest.mark.parametrize("said, use", COMPRESSED.values(), ids=COMPRESSED)
def test_compressed_tensors_are_refused_in_torchs_words(said: str, use: Any) -> None:
    with pytest.raises(NotImplementedError, match=said):
        use()

"""Compressed sparse tensors stay on the CPU where the target has none, and mix with its tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from torchdevice_mode import TorchDeviceWarning, _log, _session, redirect

pytestmark = [
    pytest.mark.simulated_mps,
    pytest.mark.filterwarnings("ignore:Sparse:UserWarning"),
    pytest.mark.filterwarnings("ignore::torchdevice_mode.TorchDeviceWarning"),
]


def matrix(device: str) -> torch.Tensor:
    return torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 3.0], [0.0, 0.0, 4.0]], device=device)


KEPT: dict[str, Callable[[str], torch.Tensor]] = {
    "to_sparse_csr": lambda d: matrix(d).to_sparse_csr(),
    "to_sparse_csc": lambda d: matrix(d).to_sparse_csc(),
    "from COO": lambda d: matrix(d).to_sparse().to_sparse_csr(),
    "to": lambda d: matrix("cpu").to_sparse_csr().to(d),
    "to with a dtype": lambda d: matrix("cpu").to_sparse_csr().to(d, torch.float16),
    "made": lambda d: torch.sparse_csr_tensor([0, 1], [0], [1.0], device=d),
    "made of the target's tensors": lambda d: torch.sparse_csr_tensor(
        torch.tensor([0, 1], device=d), torch.tensor([0], device=d), torch.tensor([1.0], device=d)
    ),
}


@pytest.mark.parametrize("make", KEPT.values(), ids=KEPT)
def test_a_compressed_tensor_stays_on_the_cpu(make: Callable[[str], torch.Tensor]) -> None:
    expected = make("cpu")
    with redirect(policy="explicit"):
        kept = make("cuda")
    assert (kept.device.type, kept.layout, kept.dtype) == ("cpu", expected.layout, expected.dtype)
    assert torch.equal(kept.to_dense(), expected.to_dense())


def test_cuda_gives_the_tensor_on_the_cpu() -> None:
    given = matrix("cpu").to_sparse_csr()
    with redirect(policy="explicit"):
        assert given.cuda() is given


MIXED: dict[str, Callable[[str, torch.Tensor], Any]] = {
    "sparse @ dense": lambda d, sparse: sparse @ matrix(d),
    "dense @ sparse": lambda d, sparse: matrix(d) @ sparse,
    "sparse @ vector": lambda d, sparse: sparse @ matrix(d)[0],
    "addmm": lambda d, sparse: torch.addmm(matrix(d), sparse, matrix(d)),
    "sparse.mm": lambda d, sparse: torch.sparse.mm(sparse, matrix(d)),
}


@pytest.mark.parametrize("mix", MIXED.values(), ids=MIXED)
def test_a_call_with_tensors_of_the_target_gives_one_of_the_target(
    mix: Callable[[str, torch.Tensor], Any],
) -> None:
    expected = mix("cpu", matrix("cpu").to_sparse_csr())
    with redirect(policy="explicit"):
        actual = mix("cuda", matrix("cuda").to_sparse_csr())
    assert actual.device.type == "mps"
    torch.testing.assert_close(actual.cpu(), expected)


def test_gradients_reach_the_targets_tensors() -> None:
    with redirect(policy="explicit"):
        dense = matrix("cuda").requires_grad_()
        (matrix("cuda").to_sparse_csr() @ dense).sum().backward()
        assert dense.grad is not None
        assert dense.grad.device.type == "mps"
        assert dense.grad.cpu()[:, 0].tolist() == [1.0, 2.0, 7.0]


def test_its_user_is_told_and_it_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_log, "_said", {})
    with redirect(policy="explicit"), pytest.warns(TorchDeviceWarning, match="which mps lacks"):
        matrix("cpu").to_sparse_csr().cuda()
    reasons = [e.site.reason for e in _session.ledger.entries() if e.site.file == __file__]
    assert "mps has no compressed sparse tensors" in reasons

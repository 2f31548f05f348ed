"""What a tensor's dtype and layout say of it: here, how much is copied when it is moved."""

from __future__ import annotations

import pytest
import torch

from torchdevice_mode._dtypes import bytes_of


def two_entries(values):
    return torch.sparse_coo_tensor([[0, 1], [2, 0]], values, check_invariants=True)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: torch.ones(3, 4), 3 * 4 * 4),
        (lambda: torch.ones(3, dtype=torch.int8).expand(5, 3), 5 * 3),
        (lambda: torch.ones(0), 0),
        (lambda: two_entries(torch.ones(2)), 2 * 4 + 2 * 2 * 8),
        (lambda: two_entries(torch.ones(2, 5)), 2 * 5 * 4 + 2 * 2 * 8),
        (lambda: torch.eye(3).to_sparse_csr(), 3 * 4 + (4 + 3) * 8),
        (lambda: torch.eye(3).to_sparse_csc(), 3 * 4 + (4 + 3) * 8),
        (lambda: torch.eye(4).to_sparse_bsr((2, 2)), 8 * 4 + (3 + 2) * 8),
        (lambda: torch.eye(4).to_sparse_bsc((2, 2)), 8 * 4 + (3 + 2) * 8),
        (lambda: torch.ones(2).to_mkldnn(), 0),  # not known
    ],
    ids=["dense", "expanded", "empty", "coo", "hybrid", "csr", "csc", "bsr", "bsc", "mkldnn"],
)
def test_bytes_are_those_of_all_that_is_copied(make, count):
    assert bytes_of(make()) == count

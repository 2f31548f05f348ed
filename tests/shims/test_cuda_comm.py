"""torch.cuda.comm where there is one device."""

from __future__ import annotations

import pytest
import torch
from torch.cuda import comm

pytestmark = pytest.mark.usefixtures("redirected")


@pytest.fixture
def x():
    return torch.arange(6.0, device="cuda").reshape(3, 2)


def test_broadcast_copies_to_each_device(x, target):
    (copy,) = comm.broadcast(torch.ones(2), devices=["cuda:0"])
    assert copy.device == target and copy.tolist() == [1.0, 1.0]
    first, second = comm.broadcast(x, (0, 0))
    assert torch.equal(first, second) and first.data_ptr() != second.data_ptr()


def test_broadcast_writes_into_what_it_is_given(x):
    out = torch.zeros_like(x)
    (same,) = comm.broadcast(x, out=[out])
    assert same is out and torch.equal(out, x)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: comm.broadcast(x), RuntimeError, "Exactly one of 'devices' and 'out'"),
        (lambda x: comm.broadcast(x, [0, 1]), RuntimeError, "invalid device ordinal"),
        (lambda x: comm.broadcast(x, out=[x[:1]]), RuntimeError, "same shape as the source"),
        (lambda x: comm.scatter(x, [0], out=[x]), RuntimeError, "'devices' must not be specified"),
        (lambda x: comm.scatter(x, [0], [1, 2]), RuntimeError, "of same length"),
        (lambda x: comm.gather([x], 0, 0, out=x), RuntimeError, "'destination' must not be"),
        (lambda x: comm.reduce_add([x, x[:1]]), ValueError, "input 1 has invalid size: got 1x2"),
    ],
    ids=["neither", "absent", "shape", "out-and-devices", "chunks", "out-and-destination", "sizes"],
)
def test_bad_arguments_get_cudas_errors(x, call, error, text):
    with pytest.raises(error, match=text):
        call(x)


def test_scatter_and_gather_are_inverse(x, target):
    for chunks in (comm.scatter(x, [0]), comm.scatter(x, [0, 0], [1, 2]), comm.scatter(x, [0, 0])):
        assert all(chunk.device == target for chunk in chunks)
        assert torch.equal(comm.gather(chunks), x)
    out = torch.empty_like(x)
    assert comm.gather([x[:1], x[1:]], out=out) is out and torch.equal(out, x)


def test_scatter_writes_into_what_it_is_given(x):
    out = [torch.empty(1, 2, device="cuda"), torch.empty(2, 2, device="cuda")]
    assert comm.scatter(x, out=out)[1] is out[1]
    assert torch.equal(torch.cat(out), x)


def test_sums_are_elementwise(x):
    assert torch.equal(comm.reduce_add([x, x, x]), 3 * x)
    left, right = comm.reduce_add_coalesced([[x, x + 1], [x, x + 1]])
    assert torch.equal(left, 2 * x) and torch.equal(right, 2 * (x + 1))


def test_coalesced_broadcast_gives_a_list_for_each_device(x):
    ((a, b),) = comm.broadcast_coalesced([x, x + 1], [0])
    assert torch.equal(a, x) and torch.equal(b, x + 1)

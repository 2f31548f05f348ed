"""torch.cuda.FloatTensor and its sisters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from torchdevice_mode._shims.cuda._tensor_types import _DTYPES

pytestmark = pytest.mark.usefixtures("redirected")

TYPES = [(name, dtype) for name, dtype in _DTYPES.items() if dtype is not torch.float64]


@pytest.mark.parametrize(("name", "dtype"), TYPES)
def test_a_type_constructs_on_the_target(name, dtype, target):
    kind = getattr(torch.cuda, name)
    for made in (kind(2, 3), kind([1, 0, 1]), kind(), kind(torch.ones(2))):
        assert made.dtype is dtype and made.device == target
    assert kind(2, 3).shape == (2, 3)
    assert kind([1, 0, 1]).tolist() == [1, 0, 1]


@pytest.mark.parametrize(("name", "dtype"), TYPES)
def test_isinstance_asks_for_dtype_and_device(name, dtype):
    x = torch.zeros(2, dtype=dtype, device="cuda")
    assert isinstance(x, getattr(torch.cuda, name))
    others = [getattr(torch.cuda, other) for other, _ in TYPES if other != name]
    assert not isinstance(x, tuple(others))
    assert not isinstance([1.0], getattr(torch.cuda, name))


def test_a_type_knows_itself():
    assert torch.cuda.HalfTensor.dtype is torch.float16
    assert torch.cuda.FloatTensor.is_cuda is True
    assert repr(torch.cuda.FloatTensor) == "<class 'torch.cuda.FloatTensor'>"


def test_arrays_are_taken():
    assert torch.cuda.FloatTensor(np.ones(2, np.float32)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("kind", [lambda: "torch.cuda.HalfTensor", lambda: torch.cuda.HalfTensor])
def test_the_default_type_sets_dtype_and_device(kind, target):
    torch.set_default_tensor_type(kind())
    try:
        assert torch.get_default_dtype() is torch.float16
        assert torch.zeros(1).dtype is torch.float16 and torch.zeros(1).device == target
    finally:
        torch.set_default_tensor_type("torch.FloatTensor")
    assert torch.get_default_dtype() is torch.float32


@pytest.mark.parametrize("kind", [lambda: "torch.cuda.LongTensor", lambda: torch.cuda.LongTensor])
def test_a_tensor_can_be_cast_by_type(kind, target):
    cast = torch.ones(2).type(kind())
    assert cast.dtype is torch.int64 and cast.device == target


@pytest.mark.parametrize(("name", "dtype"), [t for t in TYPES if t[0] != "BoolTensor"])
def test_a_sparse_type_constructs_on_the_target(name, dtype, target):
    kind = getattr(torch.cuda.sparse, name)
    made = kind(torch.tensor([[0, 2]]), torch.tensor([1, 2]), torch.Size([4]))
    assert made.is_sparse and made.dtype is dtype and made.device == target
    assert made.to_dense().tolist() == [1, 0, 2, 0]
    assert isinstance(made, kind) and not isinstance(made.to_dense(), kind)
    assert kind(2, 3).shape == (2, 3)


@pytest.mark.parametrize("name", ["FloatStorage", "LongStorage", "BoolStorage", "HalfStorage"])
def test_a_storage_type_constructs_on_the_target(name, target):
    kind = getattr(torch.cuda, name)
    made = kind([0, 1, 1])
    assert made.device.type == target.type and made.dtype is kind.dtype
    assert made.tolist() == [0, 1, 1] and isinstance(made, kind)
    assert not isinstance(made, torch.cuda.ByteStorage)
    with pytest.raises(RuntimeError, match="Not available for CUDA storage"):
        kind.from_buffer(b"0123")


def test_a_tensor_names_its_type_as_a_cuda_tensor():
    x = torch.eye(2, device="cuda")
    assert x.type() == "torch.cuda.FloatTensor"
    assert x.long().type() == "torch.cuda.LongTensor"
    assert x.to_sparse().type() == "torch.cuda.sparse.FloatTensor"
    assert torch.zeros(1, device="meta").type() == "torch.meta.FloatTensor"

"""nn.DataParallel and the functions that it is made of, with one device."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytestmark = pytest.mark.usefixtures("redirected")


@pytest.fixture
def model():
    return nn.Linear(3, 2).cuda()


@pytest.mark.parametrize("device_ids", [None, [0], [0, 1], ["cuda:0"]])
def test_a_wrapped_module_gives_what_the_module_gives(model, device_ids, target):
    x = torch.randn(4, 3)
    wrapped = nn.DataParallel(model, device_ids=device_ids)
    result = wrapped(x.cuda())
    assert result.device == target and torch.equal(result, model(x.cuda()))
    result.sum().backward()
    assert model.weight.grad is not None


def test_the_pieces_of_data_parallel_work_by_hand(model, target):
    inputs = nn.parallel.scatter(torch.randn(4, 3), [0])
    replicas = nn.parallel.replicate(model, [0])[: len(inputs)]
    outputs = nn.parallel.parallel_apply(replicas, [(x,) for x in inputs], devices=[0])
    result = nn.parallel.gather(outputs, 0)
    assert result.device == target and torch.equal(result, model(inputs[0]))
    result.sum().backward()
    assert model.weight.grad is not None


def test_gather_joins_what_is_nested():
    a, b = torch.ones(1, 2).cuda(), torch.zeros(1, 2).cuda()
    joined = nn.parallel.gather([{"x": (a, None)}, {"x": (b, None)}], 0)
    assert joined["x"][0].shape == (2, 2) and joined["x"][1] is None
    assert nn.parallel.gather([a.sum(), b.sum()], 0).tolist() == [2.0, 0.0]


def test_as_many_modules_as_inputs(model):
    with pytest.raises(AssertionError, match="number of modules 1 is not equal"):
        nn.parallel.parallel_apply([model], [(1,), (2,)])


def test_data_parallel_as_a_function(model):
    x = torch.randn(4, 3, device="cuda")
    assert torch.equal(nn.parallel.data_parallel(model, x, [0]), model(x))

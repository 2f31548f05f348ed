"""Compiled code that meets tensors of two devices runs uncompiled; the rest compiles as ever."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch._dynamo.testing
from torch import nn

import torchdevice_mode
from torchdevice_mode._log import forget_warnings


@pytest.fixture(autouse=True)
def fresh():
    forget_warnings()
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def from_numpy(*values):
    return torch.from_numpy(np.array(values, dtype=np.float32))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 1)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def left(make):
    """What is made in plain torch, and stays on the CPU."""
    with torchdevice_mode.native():
        torch.manual_seed(0)
        return make()


def slugs(program):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        program()
    return [w.message.slug for w in caught if hasattr(w.message, "slug")]


@pytest.mark.simulated
@pytest.mark.parametrize("policy", ["force", "explicit"])
def test_a_compiled_module_takes_a_batch_from_the_cpu(policy, target):
    plain, results = left(Net), []
    with torchdevice_mode.redirect(policy=policy):
        module = torch.compile(left(Net).cuda(), backend="eager")

        def program():
            results.extend(module(from_numpy(1, 2)) for _ in range(3))

        assert slugs(program) == ["compile-mixed-devices"]
    assert {result.device for result in results} == {target}
    with torchdevice_mode.native():
        expected = plain(from_numpy(1, 2))
    for result in results:
        torch.testing.assert_close(result.cpu(), expected)


@pytest.mark.simulated
def test_a_compiled_module_left_behind_learns_and_is_named(redirected):
    module = left(Net)
    compiled = torch.compile(module, backend="eager")

    def program():
        for _ in range(2):
            compiled(torch.ones(1, 2, device="cuda")).sum().backward()

    assert slugs(program) == ["compile-mixed-devices", "module-left-behind"]
    plain = left(Net)
    with torchdevice_mode.native():
        for _ in range(2):
            plain(torch.ones(1, 2)).sum().backward()
    for one, other in zip(module.parameters(), plain.parameters(), strict=True):
        assert one.grad.device.type == "cpu"
        assert torch.equal(one.grad, other.grad)


@pytest.mark.simulated
def test_fullgraph_is_refused_as_in_plain_torch(redirected):
    compiled = torch.compile(lambda a, b: a * b, backend="eager", fullgraph=True)
    with pytest.raises(RuntimeError, match=r"two( different)? devices"):
        compiled(torch.ones(2, device="cuda"), from_numpy(1, 2))


@pytest.mark.simulated
def test_without_redirection_it_is_refused():
    with torchdevice_mode.redirect():
        placed = torch.ones(2, device="cuda")
    compiled = torch.compile(lambda a, b: a * b, backend="eager")
    with pytest.raises(RuntimeError, match=r"two( different)? devices"):
        compiled(placed, from_numpy(1, 2))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


def attention(x):
    return nn.functional.multi_head_attention_forward(
        *(x, x, x, 4, 2, torch.ones(12, 4, device="cuda"), None, None, None, False, 0.0),
        *(torch.ones(4, 4, device="cuda"), None),
    )[0]


def over_lists(x):
    y = x.clone()
    torch._foreach_add_([y, y], [x, x])
    torch._foreach_copy_([y], [x], True)
    return y


# What adoption puts something before, in code where all is on one device.
PROGRAMS = {
    "attention": attention,
    "lists": over_lists,
    "custom backward": lambda x: Doubled.apply(x).sum(),
    "statistics": lambda x: nn.functional.batch_norm(
        x.reshape(3, 4), torch.zeros(4, device="cuda"), torch.ones(4, device="cuda"), training=True
    ),
    "factory with out": lambda x: torch.ones(3, 1, 4, out=torch.empty(3, 1, 4, device="cuda")) + x,
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_code_on_one_device_compiles_whole(redirected, program):
    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
    compiled = torch.compile(program, backend=counter, fullgraph=True)
    x = torch.arange(12.0, device="cuda").reshape(3, 1, 4).div(12).requires_grad_()
    with torch.set_grad_enabled(program is PROGRAMS["custom backward"]):
        for _ in range(2):
            torch.testing.assert_close(compiled(x), program(x))
    assert counter.frame_count == 1

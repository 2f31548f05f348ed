"""Optimizers as CUDA programs make them."""

from __future__ import annotations

import sys

import pytest
import torch

import torchdevice_mode
from torchdevice_mode._modes import innermost

OPTIMIZERS = ["Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Rprop", "ASGD", "Adadelta"]


def trained(device, make, options):
    start = torch.linspace(-1, 1, 15).view(5, 3)
    parameter = start.to(device).requires_grad_()
    optimizer = make([parameter], lr=0.1, **options)
    for _ in range(3):
        optimizer.zero_grad()
        (parameter**3).sum().backward()
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_capturable_steps_are_those_of_plain_torch(name, foreach, redirected):
    make = getattr(torch.optim, name)
    stepped = trained("cuda", make, {"capturable": True, "foreach": foreach})
    with torchdevice_mode.native():
        expected = trained("cpu", make, {"foreach": foreach})
        torch.testing.assert_close(stepped.cpu(), expected)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "Adagrad"])
def test_fused_steps_are_those_of_plain_torch(name, redirected):
    make = getattr(torch.optim, name)
    stepped = trained("cuda", make, {"fused": True})
    with torchdevice_mode.native():
        expected = trained("cpu", make, {})
        torch.testing.assert_close(stepped.cpu(), expected)


def test_torch_refuses_capturable_where_nothing_is_redirected(target):
    parameter = torch.zeros(2, device=target, requires_grad=True)
    optimizer = torch.optim.Adam([parameter], capturable=True)
    parameter.grad = torch.ones_like(parameter)
    if target.type == "cuda":
        optimizer.step()
    else:
        with pytest.raises(AssertionError, match="capturable"):
            optimizer.step()


def test_a_step_runs_past_the_function_mode(redirected, monkeypatch):
    seen = []
    monkeypatch.setattr(
        sys.modules["torch.optim.sgd"],
        "_single_tensor_sgd",
        lambda *a, **k: seen.append(innermost()),
    )
    parameter = torch.zeros(2, device="cuda", requires_grad=True)
    parameter.grad = torch.ones_like(parameter)
    optimizer = torch.optim.SGD([parameter], lr=0.1, foreach=False)
    with torch.no_grad():
        assert innermost() is not None
    optimizer.step()
    assert seen == [None]
    assert innermost() is not None


def test_a_closure_runs_under_redirection(redirected, target):
    parameter = torch.zeros(2, device="cuda", requires_grad=True)
    made = []

    def closure():
        made.append(torch.zeros(1, device="cuda").device)
        return (parameter**2).sum()

    torch.optim.Adam([parameter]).step(closure)
    assert made == [target]


def test_memory_that_runs_out_in_a_step_is_reported_as_cuda_does(redirected, target, monkeypatch):
    text = "DefaultCPUAllocator: can't allocate memory" if target.type == "cpu" else "out of memory"

    def run_out(*args, **kwargs):
        raise RuntimeError(text)

    monkeypatch.setattr(sys.modules["torch.optim.sgd"], "_single_tensor_sgd", run_out)
    parameter = torch.zeros(2, device="cuda", requires_grad=True)
    parameter.grad = torch.ones_like(parameter)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory") as caught:
        torch.optim.SGD([parameter], lr=0.1, foreach=False).step()
    assert str(caught.value.__cause__) == text
    assert innermost() is not None


def test_clipping_compiles_in_one_graph_and_a_step_as_torch_lets_it(redirected):
    parameter = torch.linspace(-1, 1, 6, device="cuda").requires_grad_()
    optimizer = torch.optim.Adam([parameter], lr=0.1, capturable=True, foreach=False)

    def clip():
        torch.nn.utils.clip_grad_norm_([parameter], 0.5)

    def train(clip, step):
        with torch.no_grad():
            parameter.copy_(torch.linspace(-1, 1, 6))
        optimizer.state.clear()
        for _ in range(3):
            optimizer.zero_grad()
            (parameter**3).sum().backward()
            clip()
            step()
        return parameter.detach().clone()

    expected = train(clip, optimizer.step)
    compiled = (
        torch.compile(clip, backend="eager", fullgraph=True),
        torch.compile(optimizer.step, backend="eager"),  # torch itself ends the graph in it
    )
    torch.testing.assert_close(train(*compiled), expected)


def test_gradients_are_clipped_and_zeroed_past_the_function_mode(redirected):
    parameter = torch.zeros(2, device="cuda", requires_grad=True)
    parameter.grad = torch.full_like(parameter, 3.0)
    norm = torch.nn.utils.clip_grad_norm_([parameter], 1.0)
    assert norm.item() == pytest.approx(18**0.5)
    assert parameter.grad.norm().item() == pytest.approx(1.0)
    torch.nn.utils.clip_grad_value_([parameter], 0.5)
    assert parameter.grad.tolist() == [0.5, 0.5]
    torch.optim.SGD([parameter]).zero_grad()
    assert parameter.grad is None

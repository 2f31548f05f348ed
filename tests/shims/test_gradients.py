"""Gradients that a program computes on the CPU arrive where they belong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import torchdevice_mode


def from_numpy(*values):
    return torch.from_numpy(np.array(values, dtype=np.float32))


def leaf():
    return torch.tensor([1.0, 2.0, 3.0], device="cuda").requires_grad_()


WAYS = {
    "of a tensor": lambda x, y, g: y.backward(g),
    "by keyword": lambda x, y, g: y.backward(gradient=g),
    "of tensors": lambda x, y, g: torch.autograd.backward([y, y.sum()], [g, None]),
    "asked for": lambda x, y, g: setattr(x, "grad", torch.autograd.grad(y, x, g)[0]),
    "asked for in batches": lambda x, y, g: setattr(
        x, "grad", torch.autograd.grad(y, x, g.expand(2, 3), is_grads_batched=True)[0][0]
    ),
    "at an edge": lambda x, y, g: torch.autograd.backward(
        torch.autograd.graph.get_gradient_edge(y), g.to(y.device)
    ),
    "assigned": lambda x, y, g: setattr(x, "grad", g * 2),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_backward_takes_a_gradient_from_the_cpu(redirected, target, way):
    x = leaf()
    way(x, x * 2, from_numpy(1, 0, 2))
    assert x.grad.device == target
    assert (x.grad - x.grad[1]).tolist() in ([2, 0, 4], [3, 1, 5], [2, -1, 4], [2, 0, 4])


class ByNumPy(torch.autograd.Function):
    """A layer as tutorials have it, in NumPy."""

    @staticmethod
    def forward(ctx, x, scale, y):
        ctx.scale = scale
        result = x.detach().cpu().numpy() * scale + y.detach().cpu().numpy()
        return torch.as_tensor(result)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.cpu().numpy()
        return torch.from_numpy(gradient * ctx.scale), None, torch.from_numpy(gradient)


class OnTheAccelerator(torch.autograd.Function):
    """Gives a gradient on the accelerator, whatever it belongs to."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient.to("cuda") * 2


def test_a_function_computes_its_gradients_in_numpy(redirected, target):
    x, y = leaf(), from_numpy(1, 1, 1).requires_grad_()
    ByNumPy.apply(x, 3.0, y).sum().backward()
    assert (x.grad.device, x.grad.tolist()) == (target, [3, 3, 3])
    assert (y.grad.device.type, y.grad.tolist()) == ("cpu", [1, 1, 1])


def test_what_needs_no_gradient_is_passed_over(redirected, target):
    x, y = leaf(), from_numpy(1, 1, 1)
    ByNumPy.apply(y, 3.0, x).sum().backward()
    assert (x.grad.device, x.grad.tolist()) == (target, [1, 1, 1])
    assert y.grad is None


def test_a_function_computes_the_gradient_of_a_cpu_tensor_elsewhere(redirected):
    x = from_numpy(1, 1).requires_grad_()
    OnTheAccelerator.apply(x).sum().backward()
    assert (x.grad.device.type, x.grad.tolist()) == ("cpu", [2, 2])


@pytest.mark.simulated
def test_a_gradient_that_is_moved_is_counted(redirected, events):
    x = leaf()
    ByNumPy.apply(x, 3.0, from_numpy(1, 1, 1)).sum().backward()
    (x * 2).backward(from_numpy(1, 1, 1))
    assert events("adoption") == 2


class TooFew(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        return x + y

    @staticmethod
    def backward(ctx, gradient):
        return (gradient,)


def test_a_wrong_number_of_gradients_is_torchs_error(redirected):
    with pytest.raises(RuntimeError, match="returned an incorrect number of gradients"):
        TooFew.apply(leaf(), leaf()).sum().backward()


def test_a_wrong_shape_is_torchs_error(redirected):
    with pytest.raises(RuntimeError, match="Mismatch in shape"):
        (leaf() * 2).backward(from_numpy(1, 2))


@pytest.mark.simulated
def test_plain_torch_refuses_as_ever(redirected):
    x = leaf()
    with torchdevice_mode.native(), pytest.raises(RuntimeError, match="expected device"):
        (x * 2).backward(from_numpy(1, 1, 1))

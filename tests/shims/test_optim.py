"""Optimizers as CUDA programs make them."""

from __future__ import annotations

import pytest
import torch

import torchdevice_mode

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

"""A model, its data and a plain run of it, for comparing with what several processes train."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

STEPS = 3


def model(norm: bool = False) -> nn.Sequential:
    """The same weights wherever it is made."""
    torch.manual_seed(0)
    between: list[nn.Module] = [nn.BatchNorm1d(8)] if norm else []
    return nn.Sequential(nn.Linear(6, 8), *between, nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))


def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Global batches of 8, on the CPU."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        yield torch.randn(8, 6, generator=generator), torch.randn(8, 3, generator=generator)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.05)


def weights(trained: nn.Module) -> torch.Tensor:
    """All parameters in one vector, on the CPU."""
    full = [getattr(p, "full_tensor", lambda p=p: p)().detach() for p in trained.parameters()]
    flat = torch.cat([parameter.flatten() for parameter in full])
    with torch._C.DisableTorchFunction():
        return flat.to("cpu")


def plain_run(
    make_optimizer: Callable[[Any], torch.optim.Optimizer] = sgd, norm: bool = False
) -> torch.Tensor:
    """The weights after training on whole batches in one process."""
    trained = model(norm)
    optimizer = make_optimizer(trained.parameters())
    for inputs, targets in batches():
        optimizer.zero_grad()
        nn.functional.mse_loss(trained(inputs), targets).backward()
        optimizer.step()
    return weights(trained)

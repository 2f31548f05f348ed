"""`DistributedDataParallel` and what goes with it, as CUDA programs write it.

A check gives the weights after training, which are compared with those of one process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.distributed.algorithms.join import Join
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from .._models import adam, batches, model, sgd, weights
from .._ranks import Rank

CHECKS: dict[str, Callable[[Rank], Any]] = {}


def check(function: Callable[[Rank], Any]) -> Callable[[Rank], Any]:
    CHECKS[function.__name__] = function
    return function


def train(here: Rank, wrapped: nn.Module, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """Each rank takes its part of every batch."""
    for inputs, targets in batches():
        inputs = inputs.cuda(here.rank, non_blocking=True).chunk(here.size)[here.rank]
        targets = targets.to(f"cuda:{here.rank}").chunk(here.size)[here.rank]
        optimizer.zero_grad()
        nn.functional.mse_loss(wrapped(inputs).float(), targets).backward()
        optimizer.step()
    return weights(wrapped)


def ways(name: str, hook: Any = None, **how: Any) -> None:
    """Add a check of one way to wrap a model."""

    def wrapped_so(here: Rank) -> torch.Tensor:
        given = {"device_ids": [here.rank], "output_device": here.rank} | how
        wrapped = DistributedDataParallel(model().to(here.rank), **given)
        if hook is not None:
            hook(wrapped)
        return train(here, wrapped, sgd(wrapped.parameters()))

    CHECKS[name] = wrapped_so


ways("device_ids")
ways("no_device_ids", device_ids=None, output_device=None)
ways("static_graph", static_graph=True)
ways("gradient_as_bucket_view", gradient_as_bucket_view=True)
ways("many_buckets", bucket_cap_mb=0.0001)
ways("find_unused_parameters", find_unused_parameters=True)
ways("no_broadcast_of_buffers", broadcast_buffers=False, init_sync=True)
ways(
    "bf16_compress_hook",
    lambda wrapped: wrapped.register_comm_hook(None, default_hooks.bf16_compress_hook),
)
ways(
    "allreduce_hook", lambda wrapped: wrapped.register_comm_hook(None, default_hooks.allreduce_hook)
)
ways(
    "powersgd_hook",
    lambda wrapped: wrapped.register_comm_hook(
        powerSGD_hook.PowerSGDState(None, start_powerSGD_iter=2), powerSGD_hook.powerSGD_hook
    ),
)


@check
def device_ids_as_devices(here: Rank) -> torch.Tensor:
    wrapped = DistributedDataParallel(
        model().cuda(), device_ids=[torch.device("cuda", here.rank)], output_device=None
    )
    return train(here, wrapped, sgd(wrapped.parameters()))


@check
def no_sync(here: Rank) -> torch.Tensor:
    wrapped = DistributedDataParallel(model().cuda(), device_ids=[here.rank])
    optimizer = sgd(wrapped.parameters())
    for inputs, targets in batches():
        first, second = zip(
            *(t.cuda().chunk(here.size)[here.rank].chunk(2) for t in (inputs, targets))
        )
        optimizer.zero_grad()
        with wrapped.no_sync():
            (nn.functional.mse_loss(wrapped(first[0]), first[1]) / 2).backward()
        (nn.functional.mse_loss(wrapped(second[0]), second[1]) / 2).backward()
        optimizer.step()
    return weights(wrapped)


@check
def unused_layer(here: Rank) -> torch.Tensor:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = model(), nn.Linear(3, 3)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.used(inputs)

    partly = Partly().cuda()
    wrapped = DistributedDataParallel(partly, device_ids=[here.rank], find_unused_parameters=True)
    train(here, wrapped, sgd(wrapped.parameters()))
    return weights(partly.used)


@check
def sync_batch_norm(here: Rank) -> torch.Tensor:
    layers = nn.SyncBatchNorm.convert_sync_batchnorm(model(norm=True)).to(here.rank)
    wrapped = DistributedDataParallel(layers, device_ids=[here.rank])
    trained = train(here, wrapped, sgd(wrapped.parameters()))
    running = torch.cat([layers[1].running_mean, layers[1].running_var])
    with torch._C.DisableTorchFunction():
        return torch.cat([trained, running.to("cpu")])


@check
def zero_redundancy(here: Rank) -> torch.Tensor:
    wrapped = DistributedDataParallel(model().cuda(), device_ids=[here.rank])
    optimizer = ZeroRedundancyOptimizer(wrapped.parameters(), torch.optim.Adam, lr=0.05)
    return train(here, wrapped, optimizer)


@check
def adam_optimizer(here: Rank) -> torch.Tensor:
    wrapped = DistributedDataParallel(model().cuda(), device_ids=[here.rank])
    return train(here, wrapped, adam(wrapped.parameters()))


@check
def grad_scaler(here: Rank) -> torch.Tensor:
    wrapped = DistributedDataParallel(model().cuda(), device_ids=[here.rank])
    optimizer, scaler = sgd(wrapped.parameters()), torch.amp.GradScaler("cuda")
    for inputs, targets in batches():
        inputs, targets = (t.cuda().chunk(here.size)[here.rank] for t in (inputs, targets))
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = nn.functional.mse_loss(wrapped(inputs), targets)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return weights(wrapped)


@check
def compiled(here: Rank) -> torch.Tensor:
    wrapped = DistributedDataParallel(model().cuda(), device_ids=[here.rank])
    return train(here, torch.compile(wrapped, backend="aot_eager"), sgd(wrapped.parameters()))


@check
def sparse_gradients(here: Rank) -> list[Any]:
    embedding = nn.EmbeddingBag(6, 2, sparse=True, mode="sum")
    with torch.no_grad():
        embedding.weight.fill_(1)
    wrapped = DistributedDataParallel(embedding.cuda(), device_ids=[here.rank])
    ids = torch.tensor([[1, 2], [2, 3]]).cuda().chunk(here.size)[here.rank]
    wrapped(ids).sum().backward()
    return embedding.weight.grad.to_dense()[:, 0].tolist()


@check
def uneven_inputs(here: Rank) -> int:
    wrapped = DistributedDataParallel(model().cuda(), device_ids=[here.rank])
    steps = 0
    with Join([wrapped]):
        for _ in range(2 + here.rank):
            wrapped(torch.ones(2, 6, device="cuda")).sum().backward()
            steps += 1
    return steps


@check
def two_devices(here: Rank) -> None:
    DistributedDataParallel(model().cuda(), device_ids=[0, 1])


@check
def state_after_ddp(here: Rank) -> list[str]:
    wrapped = DistributedDataParallel(model().cuda(), device_ids=[here.rank])
    return [*wrapped.state_dict()][:1] + [str(dist.get_backend())]

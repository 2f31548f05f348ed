"""FSDP in both forms, DTensor, tensor and pipeline parallelism, and distributed checkpoints.

A check gives the weights after training, which are compared with those of one process.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as checkpoint
import torch.distributed.tensor as dtensor
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import (
    CPUOffload,
    CPUOffloadPolicy,
    FullStateDictConfig,
    FullyShardedDataParallel,
    MixedPrecision,
    MixedPrecisionPolicy,
    StateDictType,
    fully_shard,
)
from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from .._models import adam, batches, model, sgd, weights
from .._ranks import Rank
from .training import train

CHECKS: dict[str, Callable[[Rank], Any]] = {}


def check(function: Callable[[Rank], Any]) -> Callable[[Rank], Any]:
    CHECKS[function.__name__] = function
    return function


# --- FSDP ---------------------------------------------------------------------------------------


def fsdp(name: str, make: Callable[[Rank], dict[str, Any]]) -> None:
    def trained(here: Rank) -> torch.Tensor:
        given = make(here)
        layers = model() if "device_id" in given else model().cuda()
        sharded = FullyShardedDataParallel(layers, use_orig_params=True, **given)
        train(here, sharded, sgd(sharded.parameters()))
        with FullyShardedDataParallel.summon_full_params(sharded):
            return weights(sharded)

    CHECKS[name] = trained


fsdp("fsdp", lambda here: {})
fsdp("fsdp_by_rank", lambda here: {"device_id": here.rank})
fsdp("fsdp_by_current_device", lambda here: {"device_id": torch.cuda.current_device()})
fsdp(
    "fsdp_offloaded",
    lambda here: {"device_id": torch.device("cuda", here.rank), "cpu_offload": CPUOffload(True)},
)
fsdp("fsdp_in_bfloat16", lambda here: {"mixed_precision": MixedPrecision(torch.bfloat16)})


@check
def fsdp_state_dict(here: Rank) -> torch.Tensor:
    sharded = FullyShardedDataParallel(
        model(),
        device_id=here.rank,
        auto_wrap_policy=functools.partial(size_based_auto_wrap_policy, min_num_params=50),
    )
    train(here, sharded, sgd(sharded.parameters()))
    config = FullStateDictConfig(offload_to_cpu=True, rank0_only=False)
    kind = StateDictType.FULL_STATE_DICT
    with FullyShardedDataParallel.state_dict_type(sharded, kind, config):
        return torch.cat([value.flatten() for value in sharded.state_dict().values()])


# --- fully_shard --------------------------------------------------------------------------------


def shard(**how: Any) -> nn.Module:
    mesh = dist.init_device_mesh("cuda", (dist.get_world_size(),))
    layers = model().cuda()
    fully_shard(layers[0], mesh=mesh, **how)
    return fully_shard(layers, mesh=mesh, **how)


def by_fully_shard(name: str, make_optimizer: Any = sgd, **how: Any) -> None:
    def trained(here: Rank) -> torch.Tensor:
        sharded = shard(**how)
        return train(here, sharded, make_optimizer(sharded.parameters()))

    CHECKS[name] = trained


by_fully_shard("fully_shard")
by_fully_shard("fully_shard_adam", adam)
by_fully_shard("fully_shard_offloaded", offload_policy=CPUOffloadPolicy())
by_fully_shard("fully_shard_in_bfloat16", mp_policy=MixedPrecisionPolicy(torch.bfloat16))


@check
def fully_shard_without_a_mesh(here: Rank) -> torch.Tensor:
    sharded = fully_shard(model().cuda())
    return train(here, sharded, sgd(sharded.parameters()))


@check
def checkpoints(here: Rank) -> bool:
    sharded = shard()
    optimizer = adam(sharded.parameters())
    train(here, sharded, optimizer)
    before = weights(sharded)
    kept, state = get_state_dict(sharded, optimizer)
    path = here.folder / "checkpoint"
    checkpoint.save({"model": kept, "optimizer": state}, checkpoint_id=path)
    with torch.no_grad():
        for parameter in sharded.parameters():
            parameter.zero_()
    checkpoint.load({"model": kept, "optimizer": state}, checkpoint_id=path)
    set_state_dict(sharded, optimizer, model_state_dict=kept, optim_state_dict=state)
    return torch.equal(weights(sharded), before)


# --- DTensor ------------------------------------------------------------------------------------


@check
def distributed_tensor(here: Rank) -> list[Any]:
    mesh = dist.init_device_mesh("cuda", (here.size,))
    whole = torch.arange(4.0, device="cuda").view(2, 2)
    tensor = dtensor.distribute_tensor(whole, mesh, [dtensor.Shard(0)])
    product = tensor @ tensor.redistribute(mesh, [dtensor.Replicate()])
    assert tensor.to_local().device == torch.device("cuda")
    return [tensor.to_local().tolist(), product.full_tensor().tolist()]


@check
def random_shards_differ(here: Rank) -> bool:
    mesh = dist.init_device_mesh("cuda", (here.size,))
    torch.manual_seed(3)
    first = dtensor.randn(4, 4, device_mesh=mesh, placements=[dtensor.Shard(0)]).full_tensor()
    again = dtensor.randn(4, 4, device_mesh=mesh, placements=[dtensor.Shard(0)]).full_tensor()
    torch.manual_seed(3)
    same = dtensor.randn(4, 4, device_mesh=mesh, placements=[dtensor.Shard(0)]).full_tensor()
    upper, lower = first.chunk(2)
    return torch.equal(first, same) and not (torch.equal(upper, lower) or torch.equal(first, again))


@check
def random_replicas_agree(here: Rank) -> list[Any]:
    mesh = dist.init_device_mesh("cuda", (here.size,))
    torch.manual_seed(3)
    drawn = dtensor.rand(3, device_mesh=mesh, placements=[dtensor.Replicate()])
    return drawn.to_local().tolist()


@check
def tensor_parallel(here: Rank) -> bool:
    mesh = dist.init_device_mesh("cuda", (here.size,))
    layers = model().cuda()
    inputs = next(batches())[0].cuda()
    expected = layers(inputs)
    parallelize_module(layers, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    return torch.allclose(layers(inputs), expected, atol=1e-6)


@check
def pipeline(here: Rank) -> torch.Tensor:
    inputs, targets = (tensor.cuda() for tensor in next(batches()))
    layers = model()
    part = (layers[:2] if here.rank == 0 else layers[2:]).cuda()
    stage = PipelineStage(part, here.rank, here.size, torch.device("cuda", here.rank))
    schedule = ScheduleGPipe(stage, n_microbatches=2, loss_fn=nn.functional.mse_loss)
    if here.rank == 0:
        schedule.step(inputs)
    else:
        schedule.step(target=targets)
    gradients = torch.cat([parameter.grad.flatten() for parameter in part.parameters()])
    with torch._C.DisableTorchFunction():
        return gradients.to("cpu")

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
    expected.square().sum().backward()
    gradients = [parameter.grad for parameter in layers.parameters()]
    layers.zero_grad()
    parallelize_module(layers, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    outputs = layers(inputs)
    outputs.square().sum().backward()
    parallel = [*layers[0].parameters(), *layers[2].parameters()]
    return torch.allclose(outputs, expected, atol=1e-6) and all(
        torch.allclose(parameter.grad.full_tensor(), gradient, atol=1e-5)
        for parameter, gradient in zip(parallel, gradients[:4], strict=True)
    )


def attention(mesh: Any, placement: Any, **options: Any) -> bool:
    """Whether attention over DTensors gives what it gives over whole tensors, backward too."""
    torch.manual_seed(5)
    whole = [torch.randn(2, 4, 6, 8, device="cuda", requires_grad=True) for _ in range(3)]
    expected = nn.functional.scaled_dot_product_attention(*whole, **options)
    expected.square().sum().backward()
    parts = [
        dtensor.distribute_tensor(tensor.detach(), mesh, [placement]).requires_grad_()
        for tensor in whole
    ]
    if "attn_mask" in options:
        mask = dtensor.distribute_tensor(options["attn_mask"], mesh, [dtensor.Replicate()])
        options = options | {"attn_mask": mask}
    found = nn.functional.scaled_dot_product_attention(*parts, **options)
    found.square().sum().backward()
    return torch.allclose(found.full_tensor(), expected, atol=1e-5) and all(
        torch.allclose(part.grad.full_tensor(), tensor.grad, atol=1e-5)
        for part, tensor in zip(parts, whole, strict=True)
    )


@check
def sharded_attention(here: Rank) -> list[bool]:
    mesh = dist.init_device_mesh("cuda", (here.size,))
    mask = torch.ones(6, 6, device="cuda").tril()
    placements = [dtensor.Shard(0), dtensor.Shard(1), dtensor.Replicate()]
    options: list[dict[str, Any]] = [{}, {"is_causal": True}, {"attn_mask": mask}]
    return [attention(mesh, placement, **some) for placement in placements for some in options]


@check
def sharded_inference(here: Rank) -> bool:
    mesh = dist.init_device_mesh("cuda", (here.size,))
    with torch.no_grad():
        whole = [torch.randn(2, 4, 6, 8, device="cuda") for _ in range(3)]
        parts = [dtensor.distribute_tensor(tensor, mesh, [dtensor.Shard(1)]) for tensor in whole]
        found = nn.functional.scaled_dot_product_attention(*parts)
    return bool(found.placements == (dtensor.Shard(1),))


@check
def a_mixture_of_the_programs_own(here: Rank) -> Any:
    mesh = dist.init_device_mesh("cuda", (here.size,))
    part = dtensor.distribute_tensor(torch.ones(4, device="cuda"), mesh, [dtensor.Shard(0)])
    return part + torch.ones(4, device="cuda")


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

"""Every collective of torch.distributed on CUDA tensors, as programs for NCCL call them.

Rank r has [1, 2, 3, 4] * (r + 1). A check gives the tensors after the call, as lists.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
import torch.distributed.nn.functional as differentiable

from .._ranks import Rank

CHECKS: dict[str, Callable[[Rank], Any]] = {}


def check(function: Callable[[Rank], Any]) -> Callable[[Rank], Any]:
    CHECKS[function.__name__] = function
    return function


def own(here: Rank, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.arange(1, 5, dtype=dtype, device=f"cuda:{here.rank}") * (here.rank + 1)


def zeros(count: int = 4) -> torch.Tensor:
    return torch.zeros(count, device="cuda")


def listed(*tensors: torch.Tensor) -> Any:
    """The values, and that they are where CUDA tensors are."""
    assert all(tensor.device == torch.device("cuda") for tensor in tensors)
    values = [tensor.to_dense().tolist() for tensor in tensors]
    return values[0] if len(values) == 1 else values


# --- one tensor ---------------------------------------------------------------------------------


def reduced(name: str, **how: Any) -> None:
    def all_reduce(here: Rank) -> Any:
        tensor = own(here, how.get("dtype", torch.float32))
        dist.all_reduce(tensor, op=how.get("op", dist.ReduceOp.SUM))
        return listed(tensor.float() if tensor.dtype.is_floating_point else tensor)

    CHECKS[name] = all_reduce


reduced("all_reduce")
reduced("all_reduce_avg", op=dist.ReduceOp.AVG)
reduced("all_reduce_max", op=dist.ReduceOp.MAX)
reduced("all_reduce_bfloat16", dtype=torch.bfloat16)
reduced("all_reduce_float16", dtype=torch.float16)
reduced("all_reduce_int64", dtype=torch.int64)


@check
def all_reduce_sparse(here: Rank) -> Any:
    tensor = (torch.eye(2) * (here.rank + 1)).to_sparse().cuda()
    dist.all_reduce(tensor)
    return listed(tensor)


@check
def all_reduce_transposed(here: Rank) -> Any:
    tensor = own(here).view(2, 2).t()
    dist.all_reduce(tensor)
    return listed(tensor)


@check
def all_reduce_in_inference_mode(here: Rank) -> Any:
    with torch.inference_mode():
        tensor = own(here)
        dist.all_reduce(tensor)
        dist.all_reduce(tensor, async_op=True).wait()
        return listed(tensor)


@check
def all_reduce_of_a_saved_tensor(here: Rank) -> Any:
    weight = own(here).requires_grad_()
    factor = own(here)
    product = (weight * factor).sum()
    dist.all_reduce(factor)  # autograd takes no notice, as on CUDA
    product.backward()
    return listed(weight.grad)


@check
def broadcast(here: Rank) -> Any:
    tensor = own(here)
    dist.broadcast(tensor, 1)
    return listed(tensor)


@check
def reduce(here: Rank) -> Any:
    tensor = own(here)
    dist.reduce(tensor, 1)
    return listed(tensor)


# --- several tensors ----------------------------------------------------------------------------


@check
def all_gather(here: Rank) -> Any:
    parts = [zeros() for _ in range(here.size)]
    dist.all_gather(parts, own(here))
    return listed(*parts)


@check
def all_gather_into_tensor(here: Rank) -> Any:
    whole = zeros(8)
    dist.all_gather_into_tensor(whole, own(here))
    return listed(whole)


@check
def all_gather_into_tensors_of_other_shapes(here: Rank) -> Any:
    # NCCL counts elements; accelerate gathers rows into one flat tensor.
    flat, stacked, later = zeros(8), zeros(8).view(2, 1, 4), zeros(8).view(4, 2)
    dist.all_gather_into_tensor(flat, own(here).view(2, 2))
    dist.all_gather_into_tensor(stacked, own(here))
    dist.all_gather_into_tensor(later, own(here), async_op=True).wait()
    return [listed(flat), listed(stacked.view(-1)), listed(later.view(-1))]


@check
def all_gather_into_own_tensor(here: Rank) -> Any:
    whole = zeros(8)
    part = whole.chunk(here.size)[here.rank].copy_(own(here))
    dist.all_gather_into_tensor(whole, part)
    return listed(whole)


@check
def gather(here: Rank) -> Any:
    parts = [zeros() for _ in range(here.size)]
    dist.gather(own(here), parts if here.rank == 0 else None, 0)
    return listed(*parts)


@check
def scatter(here: Rank) -> Any:
    part = zeros()
    dist.scatter(part, [own(here), own(here) + 10] if here.rank == 0 else None, 0)
    return listed(part)


@check
def reduce_scatter(here: Rank) -> Any:
    part = zeros()
    dist.reduce_scatter(part, [own(here), own(here) + 10])
    return listed(part)


@check
def reduce_scatter_tensor(here: Rank) -> Any:
    part = zeros(2)
    dist.reduce_scatter_tensor(part, own(here), op=dist.ReduceOp.AVG)
    return listed(part)


@check
def all_to_all(here: Rank) -> Any:
    parts = [zeros() for _ in range(here.size)]
    dist.all_to_all(parts, [own(here), own(here) + 10])
    return listed(*parts)


@check
def all_to_all_single(here: Rank) -> Any:
    result = zeros()
    dist.all_to_all_single(result, own(here))
    return listed(result)


@check
def all_to_all_single_by_sizes(here: Rank) -> Any:
    sizes = [1, 3] if here.rank == 0 else [3, 1]
    result = zeros()
    dist.all_to_all_single(result, own(here), sizes, sizes)
    return listed(result)


@check
def coalesced(here: Rank) -> Any:
    sums, wholes, parts = [own(here), own(here)], [zeros(8), zeros(8)], [zeros(2), zeros(2)]
    with dist._coalescing_manager():
        for tensor in sums:
            dist.all_reduce(tensor)
    with dist._coalescing_manager():
        for tensor in wholes:
            dist.all_gather_into_tensor(tensor, own(here))
    with dist._coalescing_manager(async_ops=True) as manager:
        for tensor in parts:
            dist.reduce_scatter_tensor(tensor, own(here))
    manager.wait()
    return listed(*sums, *wholes, *parts)


# --- from one to one ----------------------------------------------------------------------------


@check
def send_and_receive(here: Rank) -> Any:
    tensor = zeros()
    if here.rank == 0:
        dist.send(own(here), 1)
        return listed(tensor)
    return dist.recv(tensor, 0), listed(tensor)


@check
def receive_from_anyone(here: Rank) -> Any:
    tensor = zeros()
    if here.rank == 0:
        dist.send(own(here), 1)
        return listed(tensor)
    return dist.recv(tensor), listed(tensor)


@check
def batch_isend_irecv(here: Rank) -> Any:
    tensor, other = zeros(), 1 - here.rank
    operations = [dist.P2POp(dist.isend, own(here), other), dist.P2POp(dist.irecv, tensor, other)]
    for work in dist.batch_isend_irecv(operations):
        work.wait()
    return listed(tensor)


@check
def receive_by_polling(here: Rank) -> Any:
    tensor = zeros()
    sent = dist.isend(own(here), 1 - here.rank)
    work = dist.irecv(tensor, 1 - here.rank)
    while not work.is_completed():
        pass
    sent.wait()
    return listed(tensor)


@check
def future_of_a_message(here: Rank) -> Any:
    tensor = zeros()
    sent = dist.isend(own(here), 1 - here.rank)
    dist.irecv(tensor, 1 - here.rank).get_future().wait()
    sent.wait()
    return listed(tensor)


# --- work in progress ---------------------------------------------------------------------------


def finished(work: Any) -> None:
    future = work.get_future()
    work.wait()
    future.wait()
    assert work.is_completed()


@check
def work_of_all_reduce(here: Rank) -> Any:
    tensor = own(here)
    finished(dist.all_reduce(tensor, async_op=True))
    return listed(tensor)


@check
def future_of_all_reduce(here: Rank) -> Any:
    future = dist.all_reduce(own(here), async_op=True).get_future()
    return listed(future.then(lambda done: done.value()[0] / 2).wait())


@check
def work_of_all_gather(here: Rank) -> Any:
    whole = zeros(8)
    finished(dist.all_gather_into_tensor(whole, own(here), async_op=True))
    return listed(whole)


@check
def work_of_reduce_scatter(here: Rank) -> Any:
    part = zeros(2)
    finished(dist.reduce_scatter_tensor(part, own(here), async_op=True))
    return listed(part)


@check
def works_of_many(here: Rank) -> Any:
    tensors = [own(here) for _ in range(8)]
    works = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
    for work in reversed(works):
        work.wait()
    return listed(sum(tensors))


@check
def works_of_different_kinds(here: Rank) -> Any:
    """What follows on one collective must not wait for Python while another waits for gloo."""
    for _ in range(20):
        sums, parts = [own(here) for _ in range(10)], [zeros(2) for _ in range(5)]
        works = [dist.all_reduce(tensor, async_op=True) for tensor in sums]
        works += [dist.reduce_scatter_tensor(part, own(here), async_op=True) for part in parts]
        for work in works:
            work.wait()
    return listed(sums[-1])


@check
def work_of_barrier(here: Rank) -> Any:
    finished(dist.barrier(async_op=True))
    dist.barrier(device_ids=[here.rank])


# --- objects ------------------------------------------------------------------------------------


@check
def objects(here: Rank) -> Any:
    gathered: list[Any] = [None] * here.size
    dist.all_gather_object(gathered, {"rank": here.rank, "tensor": own(here)})
    sent = [here.rank, "a"]
    dist.broadcast_object_list(sent, 1, device=torch.device("cuda", here.rank))
    part: list[Any] = [None]
    dist.scatter_object_list(part, ["x", "y"] if here.rank == 0 else None, 0)
    one = ["from 0"] if here.rank == 0 else [None]
    if here.rank == 0:
        dist.send_object_list(one, 1)
    else:
        dist.recv_object_list(one, 0)
    assert all(listed(each.pop("tensor")) for each in gathered)
    return gathered, sent, part, one


# --- in graphs and for autograd -----------------------------------------------------------------


@check
def functional_collectives(here: Rank) -> Any:
    group = dist.group.WORLD
    return listed(
        functional.all_reduce(own(here), "avg", group) + 0,
        functional.all_gather_tensor(own(here), 0, group) + 0,
        functional.reduce_scatter_tensor(own(here), "sum", 0, group) + 0,
        functional.all_to_all_single(own(here), None, None, group) + 0,
        functional.broadcast(own(here), 1, group) + 0,
        *(each + 0 for each in functional.all_reduce_coalesced([own(here)] * 2, "sum", group)),
    )


@check
def compiled(here: Rank) -> Any:
    @torch.compile(backend="aot_eager", fullgraph=True)
    def step(tensor: torch.Tensor) -> torch.Tensor:
        doubled = tensor * 2
        dist.all_reduce(doubled)
        return doubled + 1

    return listed(step(own(here)))


@check
def gradients(here: Rank) -> Any:
    tensor = own(here).requires_grad_()
    differentiable.all_reduce(tensor * (here.rank + 1)).sum().backward()
    return listed(tensor.grad)


# --- groups -------------------------------------------------------------------------------------


@check
def groups(here: Rank) -> Any:
    everyone = dist.new_group([0, 1])
    on_gloo = dist.new_group([0, 1], backend="gloo")
    both = dist.new_group([0, 1], backend="cpu:gloo,cuda:nccl", timeout=timedelta(seconds=30))
    tensors = []
    for group in (everyone, on_gloo, both):
        tensors.append(own(here))
        dist.all_reduce(tensors[-1], group=group)
    dist.monitored_barrier(on_gloo)
    alone = dist.new_group([0])
    told = [str(dist.get_backend(group)) for group in (None, everyone, on_gloo, both)]
    return told, listed(*tensors), alone is dist.GroupMember.NON_GROUP_MEMBER


@check
def cpu_tensors(here: Rank) -> Any:
    with torch._C.DisableTorchFunction():
        tensor = torch.full((2,), here.rank + 1.0, device="cpu")
    dist.all_reduce(tensor)
    return tensor.tolist()


@check
def meshes(here: Rank) -> Any:
    mesh = dist.init_device_mesh("cuda", (1, 2), mesh_dim_names=("dp", "tp"))
    assert mesh.device_type == torch.device("cuda").type
    tensor = own(here)
    dist.all_reduce(tensor, group=mesh["tp"].get_group())
    return mesh["dp"].size(), mesh["tp"].get_local_rank(), listed(tensor)


@check
def options_of_nccl(here: Rank) -> Any:
    options = dist.ProcessGroupNCCL.Options(is_high_priority_stream=True)
    options.config.cga_cluster_size = 2
    tensor = own(here)
    dist.all_reduce(tensor, group=dist.new_group([0, 1], pg_options=options))
    return listed(tensor)


# --- errors -------------------------------------------------------------------------------------


@check
def wrong_size(here: Rank) -> Any:
    dist.all_gather_into_tensor(zeros(7), own(here))


@check
def monitored_barrier_of_nccl(here: Rank) -> Any:
    dist.monitored_barrier()


@check
def async_error(here: Rank) -> Any:
    dist.all_gather_into_tensor(zeros(7), own(here), async_op=True).wait()

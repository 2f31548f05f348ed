"""Groups split off a group that was made for a device, and the meshes that are made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from .._ranks import Rank

CHECKS: dict[str, Callable[[Rank], Any]] = {}


def FORMED(rank: int) -> dict[str, Any]:
    """What the group is made with."""
    return {"device_id": torch.device("cuda", rank)}


def check(function: Callable[[Rank], Any]) -> Callable[[Rank], Any]:
    CHECKS[function.__name__] = function
    return function


def summed(here: Rank, group: Any) -> Any:
    tensor = torch.full((2,), here.rank + 1.0, device=f"cuda:{here.rank}")
    dist.all_reduce(tensor, group=group)
    return tensor.tolist()


@check
def mesh_of_two_dimensions(here: Rank) -> Any:
    mesh = init_device_mesh("cuda", (2, 1), mesh_dim_names=("dp", "tp"))
    return [summed(here, mesh[name].get_group()) for name in ("dp", "tp")]


@check
def one_each(here: Rank) -> Any:
    group = dist.split_group(split_ranks=[[0], [1]])
    return summed(here, group), dist.get_process_group_ranks(group), dist.get_backend(group)


@check
def twice_and_again(here: Rank) -> Any:
    first = dist.split_group(split_ranks=[[1, 0]], group_desc="pair")
    second = dist.split_group(first, [[0, 1]])
    return summed(here, first), summed(here, second), first.group_desc


@check
def without_the_last(here: Rank) -> Any:
    group = dist.split_group(split_ranks=[[0]])
    return group is None or summed(here, group)


@check
def nothing(here: Rank) -> Any:
    dist.split_group(split_ranks=[])


@check
def one_rank_twice(here: Rank) -> Any:
    dist.split_group(split_ranks=[[0, 0], [1, 1]])


@check
def an_empty_group(here: Rank) -> Any:
    dist.split_group(split_ranks=[[], [0, 1]])

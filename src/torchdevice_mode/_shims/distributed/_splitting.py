"""`split_group`: groups split off another, which device meshes ask for where a device is named.

NCCL splits its communicators. Gloo has no such thing in every version of torch, and its options
cannot be copied, as torch does before it splits. So each group is made anew, by its members alone.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from ..._active import current
from ..._context import Context

__all__ = ["for_gloo", "note_device"]

_named_device = False  # groups on the CPU are made without it: torch cannot tell there


def note_device(device: Any) -> None:
    """Remember whether the default group was made for a device.

    Args:
        device: What the program gave as `device_id`.
    """
    global _named_device
    _named_device = device is not None


def for_gloo(original: Callable[..., Any]) -> Callable[..., Any]:
    """`split_group` of groups that gloo serves; any other is torch's own concern."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def split_group(*args: Any, **kwargs: Any) -> Any:
        context = current()
        given = signature.bind(*args, **kwargs).arguments
        wanted = given.get("split_ranks")
        if context is None or not wanted or not _named_device or not dist.is_initialized():
            return original(*args, **kwargs)  # torch's own errors, too
        parent = given.get("parent_pg") or dist.group.WORLD
        known = dist.distributed_c10d._world.pg_group_ranks
        if parent not in known:
            raise ValueError(f"Group {parent} is not registered")
        if dist.get_rank() not in known[parent]:
            raise ValueError(
                f"Global rank {dist.get_rank()} is not part of the parent group {parent}"
            )
        if not _on_gloo(parent, context):
            return original(*args, **kwargs)
        mine = _checked(wanted, known[parent][dist.get_rank()])
        if mine is None:
            return None
        of_world = {rank: of_all for of_all, rank in known[parent].items()}
        return dist.new_group(
            [of_world[rank] for rank in mine],
            timeout=given.get("timeout"),
            backend=given.get("backend") or dist.get_backend(parent),
            use_local_synchronization=True,
            group_desc=given.get("group_desc"),
        )

    return split_group


def _on_gloo(group: Any, context: Context) -> bool:
    device = torch.device(context.target.type)
    return isinstance(group._get_backend(device), dist.ProcessGroupGloo)


def _checked(wanted: Sequence[Sequence[int]], rank: int) -> list[int] | None:
    """The ranks of the group that a rank belongs to; like torch, none behind it is looked at."""
    for ranks in wanted:
        if len(ranks) == 0:
            raise ValueError("the split group cannot be empty")
        if len(ranks) > dist.get_world_size():
            raise ValueError(
                "the split group's size should be less or equal to the world_size set by "
                "init_process_group"
            )
        if len(ranks) != len(set(ranks)):
            raise ValueError("the split group cannot have duplicate ranks")
        if rank in ranks:
            return sorted(ranks)
    return None

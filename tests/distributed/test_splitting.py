"""Groups that are split off one made for a device, by a program or by a device mesh."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from ._ranks import Raised, run_ranks
from .checks.splitting import CHECKS

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="NCCL splits its own groups")

ALONE, BOTH = ([1, 1], [2, 2]), ([3, 3], [3, 3])

BY_RANK = {
    "mesh_of_two_dimensions": ([BOTH[0], ALONE[0]], [BOTH[1], ALONE[1]]),
    "one_each": ((ALONE[0], [0], "nccl"), (ALONE[1], [1], "nccl")),
    "twice_and_again": ((BOTH[0], BOTH[0], "pair"), (BOTH[1], BOTH[1], "pair")),
    "without_the_last": (ALONE[0], True),
    **{
        name: (Raised("ValueError", text),) * 2
        for name, text in {
            "nothing": "split_ranks cannot be None or empty",
            "one_rank_twice": "the split group cannot have duplicate ranks",
            "an_empty_group": "the split group cannot be empty",
        }.items()
    },
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return run_ranks("splitting", tmp_path_factory.mktemp("splitting"))


@pytest.mark.parametrize("name", CHECKS)
def test_a_group_is_split_as_on_cuda(found, name):
    assert tuple(rank[name] for rank in found) == BY_RANK[name]


def test_a_group_that_was_made_for_no_device_is_not_split(redirected):
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(RuntimeError, match="No device associated with the default pg"):
            dist.split_group(split_ranks=[[0]])
    finally:
        dist.destroy_process_group()

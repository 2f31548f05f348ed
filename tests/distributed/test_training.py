"""What several processes train is what one process trains on the same global batches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ._models import adam, batches, model, plain_run
from ._ranks import Raised, run_ranks
from .checks import sharded, training

# How far weights may be from those of one process, where it is not by rounding alone.
NARROW = {
    "bf16_compress_hook": 1e-3,
    "powersgd_hook": 0.1,
    "grad_scaler": 1e-2,
    "fsdp_in_bfloat16": 1e-2,
    "fully_shard_in_bfloat16": 1e-2,
}
BY_ADAM = {"zero_redundancy", "adam_optimizer", "fully_shard_adam"}
# What gives no weights, and what both ranks give.
OTHERS = {
    "sparse_gradients": ([0, 0.5, 1, 0.5, 0, 0],) * 2,
    "uneven_inputs": (2, 3),
    "state_after_ddp": (["module.0.weight", "nccl"],) * 2,
    "checkpoints": (True, True),
    "distributed_tensor": ([[[0, 1]], [[2, 3], [6, 11]]], [[[2, 3]], [[2, 3], [6, 11]]]),
    "random_shards_differ": (True, True),
    "tensor_parallel": (True, True),
    "sharded_attention": ([True] * 9,) * 2,
    "sharded_inference": (True, True),
}
ERRORS = {
    "two_devices": ("ValueError", "device_ids can only be None or contain a single element."),
    "a_mixture_of_the_programs_own": ("RuntimeError", "got mixed torch.Tensor and DTensor"),
}
ELSEWHERE = {"sync_batch_norm", "pipeline", "random_replicas_agree"}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    ranks = [run_ranks(name, tmp_path_factory.mktemp("ranks")) for name in ("training", "sharded")]
    return [first | second for first, second in zip(*ranks, strict=True)]


ALL = [*training.CHECKS, *sharded.CHECKS]


@pytest.mark.parametrize("name", [n for n in ALL if n not in {*OTHERS, *ERRORS, *ELSEWHERE}])
def test_ranks_train_what_one_process_trains(found, name):
    expected = plain_run(adam) if name in BY_ADAM else plain_run()
    for rank in found:
        assert not isinstance(rank[name], Raised), rank[name]
        torch.testing.assert_close(rank[name], expected, atol=NARROW.get(name, 1e-5), rtol=0)


@pytest.mark.parametrize("name", OTHERS)
def test_ranks_give(found, name):
    assert (found[0][name], found[1][name]) == OTHERS[name]


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_those_of_torch(found, name):
    for rank in found:
        assert rank[name].kind == ERRORS[name][0]
        assert ERRORS[name][1] in rank[name].text


def test_sync_batch_norm_normalises_over_the_global_batch(found):
    plain = model(norm=True)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05)
    for inputs, targets in batches():
        optimizer.zero_grad()
        nn.functional.mse_loss(plain(inputs), targets).backward()
        optimizer.step()
    parts = [*plain.parameters(), plain[1].running_mean, plain[1].running_var]
    expected = torch.cat([part.detach().flatten() for part in parts])
    for rank in found:
        torch.testing.assert_close(rank["sync_batch_norm"], expected, atol=1e-5, rtol=0)


def test_a_pipeline_has_the_gradients_of_the_whole(found):
    plain = model()
    inputs, targets = next(batches())
    nn.functional.mse_loss(plain(inputs), targets).backward()
    for rank, part in zip(found, (plain[:2], plain[2:]), strict=True):
        expected = torch.cat([parameter.grad.flatten() for parameter in part.parameters()])
        torch.testing.assert_close(rank["pipeline"], expected, atol=1e-5, rtol=0)


def test_replicas_draw_the_same_numbers(found):
    assert found[0]["random_replicas_agree"] == found[1]["random_replicas_agree"]
    assert len(set(found[0]["random_replicas_agree"])) == 3

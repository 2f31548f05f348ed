"""Collectives on two processes give on the target what they give on CUDA."""

from __future__ import annotations

import pytest

from ._ranks import Raised, run_ranks
from .checks.collectives import CHECKS

A, B = [1, 2, 3, 4], [2, 4, 6, 8]
SUM, MEAN = [3, 6, 9, 12], [1.5, 3, 4.5, 6]

# What both ranks have afterwards, or a pair of what each has.
SAME = {
    "all_reduce": SUM,
    "all_reduce_avg": MEAN,
    "all_reduce_max": B,
    "all_reduce_bfloat16": SUM,
    "all_reduce_float16": SUM,
    "all_reduce_int64": SUM,
    "all_reduce_sparse": [[3, 0], [0, 3]],
    "all_reduce_transposed": [[3, 9], [6, 12]],
    "all_reduce_in_inference_mode": [6, 12, 18, 24],
    "all_reduce_of_a_saved_tensor": SUM,
    "broadcast": B,
    "all_gather": [A, B],
    "all_gather_into_tensor": A + B,
    "all_gather_into_tensors_of_other_shapes": [A + B] * 3,
    "all_gather_into_own_tensor": A + B,
    "work_of_all_reduce": SUM,
    "future_of_all_reduce": MEAN,
    "work_of_all_gather": A + B,
    "works_of_many": [24, 48, 72, 96],
    "works_of_different_kinds": SUM,
    "work_of_barrier": None,
    "compiled": [7, 13, 19, 25],
    "cpu_tensors": [3, 3],
    "options_of_nccl": SUM,
}
_TOLD = ["nccl", "nccl", "gloo", "cpu:gloo,cuda:nccl"]
BY_RANK = {
    "reduce": (A, SUM),
    "gather": ([A, B], [[0] * 4] * 2),
    "scatter": (A, [11, 12, 13, 14]),
    "reduce_scatter": (SUM, [23, 26, 29, 32]),
    "reduce_scatter_tensor": (MEAN[:2], MEAN[2:]),
    "all_to_all": ([A, B], [[11, 12, 13, 14], [12, 14, 16, 18]]),
    "all_to_all_single": ([1, 2, 2, 4], [3, 4, 6, 8]),
    "all_to_all_single_by_sizes": ([1, 2, 4, 6], [2, 3, 4, 8]),
    "coalesced": (
        [SUM, SUM, A + B, A + B, SUM[:2], SUM[:2]],
        [SUM, SUM, A + B, A + B, SUM[2:], SUM[2:]],
    ),
    "send_and_receive": ([0] * 4, (0, A)),
    "receive_from_anyone": ([0] * 4, (0, A)),
    "batch_isend_irecv": (B, A),
    "receive_by_polling": (B, A),
    "future_of_a_message": (B, A),
    "work_of_reduce_scatter": (SUM[:2], SUM[2:]),
    "objects": (
        ([{"rank": 0}, {"rank": 1}], [1, "a"], ["x"], ["from 0"]),
        ([{"rank": 0}, {"rank": 1}], [1, "a"], ["y"], ["from 0"]),
    ),
    "functional_collectives": (
        [MEAN, A + B, SUM[:2], [1, 2, 2, 4], B, SUM, SUM],
        [MEAN, A + B, SUM[2:], [3, 4, 6, 8], B, SUM, SUM],
    ),
    "groups": ((_TOLD, [SUM] * 3, False), (_TOLD, [SUM] * 3, True)),
    "gradients": ([2] * 4, [4] * 4),
    "meshes": ((1, 0, SUM), (1, 1, SUM)),
}
# The kind of error, and a part of its text: torch's own.
ERRORS = {
    "wrong_size": ("RuntimeError", "invalid tensor size"),
    "monitored_barrier_of_nccl": ("ValueError", "only implemented for GLOO backend"),
    "async_error": ("RuntimeError", "invalid tensor size"),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return run_ranks("collectives", tmp_path_factory.mktemp("ranks"))


def test_every_check_has_an_expectation():
    assert CHECKS.keys() == SAME.keys() | BY_RANK.keys() | ERRORS.keys()


@pytest.mark.parametrize("name", SAME)
def test_collectives_give_all_ranks_the_same(found, name):
    assert (found[0][name], found[1][name]) == (SAME[name], SAME[name])


@pytest.mark.parametrize("name", BY_RANK)
def test_collectives_give_each_rank_its_own(found, name):
    assert (found[0][name], found[1][name]) == BY_RANK[name]


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_those_of_torch(found, name):
    for rank in found:
        error = rank[name]
        assert isinstance(error, Raised)
        assert error.kind == ERRORS[name][0]
        assert ERRORS[name][1] in error.text

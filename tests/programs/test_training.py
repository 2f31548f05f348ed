"""Training gives the same losses, step by step, as CUDA code redirected and plain on the CPU."""

from __future__ import annotations

import math

import pytest
import torch

from torchdevice_mode import redirect, simulate

from .models import PROGRAMS

LACKING = sorted(simulate.REAL_GAPS_2_13)


def losses(program, device):
    torch.manual_seed(0)
    return list(program(device))


@pytest.fixture(scope="module")
def plain():
    return {name: losses(program, "cpu") for name, program in PROGRAMS.items()}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("policy", ["force", "explicit"])
def test_losses_are_those_of_plain_torch(name, policy, plain):
    with redirect(policy=policy, rng="cpu"):
        redirected = losses(PROGRAMS[name], "cuda")
    assert len(redirected) >= 5 and all(map(math.isfinite, redirected))
    assert redirected == pytest.approx(plain[name], rel=1e-4, abs=1e-6)


@pytest.mark.simulated
@pytest.mark.parametrize("name", PROGRAMS)
def test_losses_are_the_same_where_operators_are_missing(name, plain):
    with simulate.missing_operators(LACKING), redirect(rng="cpu"):
        assert losses(PROGRAMS[name], "cuda") == pytest.approx(plain[name], rel=1e-4, abs=1e-6)


def test_a_seed_gives_the_same_run_again():
    def run():
        with redirect():
            return losses(PROGRAMS["transformer"], "cuda")

    assert run() == run()

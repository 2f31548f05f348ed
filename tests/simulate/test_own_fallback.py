"""torch's own fallback to the CPU: asked for by a variable, and for two operators unasked."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest
import torch

from torchdevice_mode import redirect

pytestmark = pytest.mark.simulated_mps

FALLS_BACK = (
    "The operator '{}' is not currently supported on the MPS backend and will fall back to run on "
    "the CPU. This may have performance implications."
)
# Two missing operators, one of them twice, forward, in place and backward.
PROGRAM = """
import warnings
import torch
from torchdevice_mode import simulate

simulate.load()
x = torch.tensor([[2.0, 1.0], [1.0, 3.0]], device="mps", requires_grad=True)
with warnings.catch_warnings(record=True) as caught, simulate.missing_operators(
    ["linalg_eigvals", "_linalg_eigvals", "take", "put_"]
):
    warnings.simplefilter("always")
    try:
        taken = x.take(torch.tensor([0, 3], device="mps"))
        taken.sum().backward()
        x.detach().put_(torch.tensor([1], device="mps"), torch.tensor([9.0], device="mps"))
        print(taken.tolist(), taken.device, x.grad.tolist(), x.tolist())
    except NotImplementedError as error:
        print(str(error).partition(". ")[0])
    for one in caught:
        print(one.category.__name__, str(one.message).partition(" (Triggered")[0])
"""
RAN = "[2.0, 3.0] mps:0 [[1.0, 0.0], [0.0, 1.0]] [[2.0, 9.0], [1.0, 3.0]]"


def run(variable: str | None) -> list[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTORCH_ENABLE_MPS_FALLBACK"}
    if variable is not None:
        environment["PYTORCH_ENABLE_MPS_FALLBACK"] = variable
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_variable_makes_missing_operators_run_on_the_cpu_with_one_warning() -> None:
    lines = run("1")
    assert lines == [RAN, "UserWarning " + FALLS_BACK.format("aten::take")]


@pytest.mark.parametrize("variable", [None, "0"])
def test_without_the_variable_they_are_missing(variable: str | None) -> None:
    assert run(variable) == [
        "The operator 'aten::take' is not currently implemented for the MPS device"
    ]


def decomposed(matrix: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svd(matrix).S


def test_svd_falls_back_unasked_and_gives_the_cpus_numbers_and_gradients() -> None:
    host = torch.tensor([[2.0, 1.0], [1.0, 3.0]], requires_grad=True)
    there = host.detach().to("mps").requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = decomposed(there)
        torch.testing.assert_close(values.cpu(), decomposed(host))
        decomposed(host).sum().backward()
        values.sum().backward()
    torch.testing.assert_close(there.grad.cpu(), host.grad)


def test_an_embedding_with_a_norm_works_as_on_the_cpu_also_redirected() -> None:
    def embedded(device: str) -> torch.Tensor:
        torch.manual_seed(0)
        layer = torch.nn.Embedding(3, 2, max_norm=0.5).to(device)
        return layer(torch.tensor([0, 2], device=device)).detach().cpu()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.testing.assert_close(embedded("mps"), embedded("cpu"))
        with redirect(policy="explicit"):
            torch.testing.assert_close(embedded("cuda"), embedded("cpu"))

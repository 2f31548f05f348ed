"""Custom operators that a program registers for CUDA."""

from __future__ import annotations

import itertools

import pytest
import torch

import torchdevice_mode

pytestmark = pytest.mark.usefixtures("redirected")

_numbers = itertools.count()


def new_operator(device_types):
    name = f"torchdevice_test::operator{next(_numbers)}"

    @torch.library.custom_op(name, mutates_args=(), device_types=device_types)
    def plus_one(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    return plus_one


@pytest.mark.parametrize("device_types", ["cuda", ["cuda"], ("cuda", "xpu"), None])
def test_an_operator_for_cuda_runs_on_the_target(device_types, target):
    result = new_operator(device_types)(torch.zeros(2, device="cuda"))
    assert result.device == target and result.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("cuda_first", [True, False])
@pytest.mark.off_cuda
def test_a_kernel_for_the_target_itself_stays(cuda_first, target):
    operator = new_operator("xpu")
    for kind in ["cuda", target.type] if cuda_first else [target.type, "cuda"]:
        operator.register_kernel(kind)(lambda x, kind=kind: x + (2 if kind == "cuda" else 3))
    assert operator(torch.zeros(1, device="cuda")).item() == 3.0


def test_autocast_of_an_operator_for_cuda_is_the_targets(target):
    operator = new_operator("cuda")
    operator.register_autocast("cuda", torch.bfloat16)
    with torchdevice_mode.native():
        try:
            new_operator("cpu").register_autocast(target.type, torch.bfloat16)
        except ValueError:
            pytest.skip(f"this torch casts no inputs of operators on {target.type}")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert operator(torch.zeros(1, device="cuda")).dtype is torch.bfloat16

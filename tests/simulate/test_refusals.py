"""What Metal has a kernel for and refuses: a row of the device, exercised plain and redirected."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_leaves

from torchdevice_mode import redirect, simulate

pytestmark = pytest.mark.simulated_mps

Program = Callable[[str], Any]


def numbers(*size: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    count = int(torch.tensor(size).prod())
    values = torch.arange(1, count + 1).reshape(size)
    return (values if not dtype.is_floating_point else values / 7).to(dtype).to(device)


def matrix(device: str, dtype: torch.dtype = torch.complex64) -> torch.Tensor:
    return torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=dtype).to(device)


def projecting(device: str) -> torch.Tensor:
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(3, 4, proj_size=2).to(device)
    return lstm(numbers(5, 1, 3, device=device))[0]


INT = torch.int64
MANUALLY = (
    " Non-divisible input sizes are not implemented on MPS device yet. For now, you can manually "
    "transfer tensor to cpu in this case. Please refer to [this issue]"
    "(https://github.com/pytorch/pytorch/issues/96056)"
)
# By what Metal says; more than one program where one text stands for several operators.
PROGRAMS: dict[str, list[Program]] = {
    "Convolution is supported only for Floating types": [
        lambda d: F.conv2d(
            numbers(1, 1, 3, 3, device=d, dtype=INT), numbers(1, 1, 2, 2, device=d, dtype=INT)
        )
    ],
    "ConvTranspose 3D with BF16 or FP16 types is not supported on MPS": [
        lambda d, dtype=dtype: F.conv_transpose3d(
            numbers(1, 1, 2, 2, 2, device=d, dtype=dtype),
            numbers(1, 1, 2, 2, 2, device=d, dtype=dtype),
        )
        for dtype in (torch.float16, torch.bfloat16)
    ],
    "Adaptive pool MPS: input sizes must be divisible by output sizes." + MANUALLY: [
        lambda d: F.adaptive_avg_pool2d(numbers(1, 1, 5, 5, device=d), 3),
        lambda d: F.adaptive_max_pool2d(numbers(1, 1, 5, 5, device=d), 3),
        lambda d: F.adaptive_avg_pool1d(numbers(1, 1, 5, device=d), 3),
    ],
    "Adaptive pool MPS: output sizes must be divisible by input sizes." + MANUALLY: [
        lambda d: F.adaptive_avg_pool2d(numbers(1, 1, 2, 2, device=d), 3)
    ],
    "Adaptive pool MPS: Input height and width must both be greater than, or equal to, or lesser "
    "than output height and width": [
        lambda d: F.adaptive_avg_pool2d(numbers(1, 1, 4, 2, device=d), (2, 4))
    ],
    "MPS device does not support linear for non-float inputs": [
        lambda d: F.linear(numbers(2, 3, device=d, dtype=INT), numbers(4, 3, device=d, dtype=INT))
    ],
    "MPS device does not support addr for non-float input": [
        lambda d: torch.addr(
            numbers(2, 2, device=d, dtype=INT), *[numbers(2, device=d, dtype=INT)] * 2
        )
    ],
    "MPS device does not support addbmm or baddbmm for this input type": [
        lambda d: torch.baddbmm(*[numbers(2, 2, 2, device=d, dtype=INT)] * 3),
        lambda d: torch.addbmm(
            numbers(2, 2, device=d, dtype=INT), *[numbers(2, 2, 2, device=d, dtype=INT)] * 2
        ),
    ],
    "linalg.solve.triangular(); Only float is supported!": [
        lambda d: torch.linalg.solve_triangular(matrix(d).triu(), matrix(d), upper=True),
        lambda d: torch.cholesky_solve(matrix(d), matrix(d).tril()),
    ],
    "linalg.lu_factor(): MPS only supports floats.": [
        lambda d: torch.linalg.solve(matrix(d), matrix(d))
    ],
    "linalg.lu_factor(): MPS doesn't support complex types.": [
        lambda d: torch.linalg.lu_factor(matrix(d)),
        lambda d: torch.linalg.det(matrix(d)),
        lambda d: torch.linalg.slogdet(matrix(d)),
    ],
    "linalg_inv: not supported for complex types yet!": [lambda d: torch.linalg.inv(matrix(d))],
    "linalg_qr: MPS currently supports float32 only": [lambda d: torch.linalg.qr(matrix(d))],
    "cholesky_inverse: MPS only supports float type!": [
        lambda d: torch.cholesky_inverse(matrix(d).tril())
    ],
    "index_reduce for MPS does not support torch.long dtype": [
        lambda d: numbers(3, device=d, dtype=INT).index_reduce(
            0, torch.tensor([0, 2], device=d), numbers(2, device=d, dtype=INT), "prod"
        )
    ],
    "_upsample_bilineard2d_aa_out_mps only supports floating-point dtypes": [
        lambda d: resized(d, "bilinear")
    ],
    "_upsample_bicubic2d_aa_out_mps only supports floating-point dtypes": [
        lambda d: resized(d, "bicubic")
    ],
    "LSTM with projections is not currently supported with MPS.": [projecting],
}
# Refused by older versions of macOS: the version, the error and a program.
OLDER: dict[str, tuple[tuple[int, int], type[Exception], Program]] = {
    "Output channels > 65536 not supported at the MPS device. ": (
        (15, 0),
        NotImplementedError,
        lambda d: F.conv1d(numbers(1, 1, 2, device=d), numbers(65537, 1, 2, device=d)),
    ),
    "scatter_reduce(amin/amax) on int64 requires macOS 15 or newer": (
        (14, 4),
        RuntimeError,
        lambda d: numbers(3, device=d, dtype=INT).scatter_reduce(
            0, torch.tensor([0], device=d), numbers(1, device=d, dtype=INT), "amax"
        ),
    ),
}
# Refused for their size; the CPU would take minutes for them.
LARGE: dict[str, Program] = {
    "nonzero is not supported for tensors with more than INT_MAX elements, See "
    "https://github.com/pytorch/pytorch/issues/51871": lambda d: (
        torch.zeros(1, device=d).expand(2**31).nonzero()
    ),
    "masked_fill not supported for tensors of more than 2**32 elements": lambda d: (
        torch.zeros(1, device=d).expand(2**32 + 1).masked_fill_(torch.ones(1, device=d) > 0, 1)
    ),
}
# What needs another program to be reached than torch's own functions make.
NOT_ALONE = {"MPS device does not support linear for non-float weights"}


def resized(device: str, mode: str) -> torch.Tensor:
    picture = numbers(1, 3, 6, 6, device=device, dtype=torch.uint8)
    return F.interpolate(picture, (3, 3), mode=mode, antialias=True)


ROWS = [
    pytest.param(said, program, id=f"{said[:40]}-{number}")
    for said, programs in PROGRAMS.items()
    for number, program in enumerate(programs)
]


def test_each_row_of_the_device_is_tested() -> None:
    assert set(simulate.refusals()) == {*PROGRAMS, *OLDER, *LARGE, *NOT_ALONE}


@pytest.mark.parametrize("said, program", ROWS)
def test_a_refusal_is_in_metals_words(said: str, program: Program) -> None:
    with pytest.raises(RuntimeError) as raised:
        program("mps")
    assert str(raised.value) == said


@pytest.mark.parametrize("said", LARGE)
def test_what_is_too_large_is_refused(said: str) -> None:
    with pytest.raises(RuntimeError) as raised:
        LARGE[said]("mps")
    assert str(raised.value) == said


@pytest.mark.parametrize("said", OLDER)
def test_an_older_macos_refuses_what_a_newer_one_does(said: str) -> None:
    version, error, program = OLDER[said]
    with simulate.macos_version(*version), pytest.raises(error) as raised:
        program("mps")
    assert str(raised.value) == said
    assert_same_as_on_the_cpu(program("mps"), program("cpu"))


def redirected(program: Program, system: AbstractContextManager[Any] | None = None) -> Any:
    with system or nullcontext(), redirect(policy="explicit"):
        return program("cuda")


def assert_same_as_on_the_cpu(actual: Any, expected: Any) -> None:
    for one, other in zip(tree_leaves(actual), tree_leaves(expected), strict=True):
        assert one.device.type == "mps"
        torch.testing.assert_close(one.cpu(), other)


@pytest.mark.parametrize("said, program", ROWS)
def test_a_redirected_program_gets_what_the_cpu_gives(said: str, program: Program) -> None:
    assert_same_as_on_the_cpu(redirected(program), program("cpu"))


@pytest.mark.parametrize("said", OLDER)
def test_a_redirected_program_runs_on_an_older_macos(said: str) -> None:
    version, _, program = OLDER[said]
    actual = redirected(program, simulate.macos_version(*version))
    assert_same_as_on_the_cpu(actual, program("cpu"))


def test_refusals_can_be_left_out() -> None:
    with simulate.without_refusals():
        inverse = torch.linalg.inv(matrix("mps"))
    assert_same_as_on_the_cpu(inverse, torch.linalg.inv(matrix("cpu")))
    with pytest.raises(RuntimeError, match="linalg_inv"):
        torch.linalg.inv(matrix("mps"))


# --- dimensions -----------------------------------------------------------------------------

SEVENTEEN = (1,) * 17
TOO_MANY: dict[str, Program] = {
    "zeros": lambda d: torch.zeros(SEVENTEEN, device=d),
    "add": lambda d: torch.ones(1, device=d).expand(SEVENTEEN) + 1,
    "clone": lambda d: torch.ones(1, device=d).expand(SEVENTEEN).contiguous().sin(),
}


@pytest.mark.parametrize("program", TOO_MANY.values(), ids=TOO_MANY)
def test_more_than_sixteen_dimensions_are_refused(program: Program) -> None:
    with pytest.raises(RuntimeError) as raised:
        program("mps")
    assert str(raised.value) == "MPS supports tensors with dimensions <= 16, but got 17."


@pytest.mark.parametrize("program", TOO_MANY.values(), ids=TOO_MANY)
def test_more_than_sixteen_dimensions_work_redirected(program: Program) -> None:
    assert_same_as_on_the_cpu(redirected(program), program("cpu"))

"""float64 in compiled functions, on a target without it."""

from __future__ import annotations

import pytest
import torch

import torchdevice_mode
from torchdevice_mode._log import forget_warnings
from torchdevice_mode.errors import TorchDeviceWarning

pytestmark = [
    pytest.mark.simulated_mps,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def compiled_anew():
    forget_warnings()
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def rotary_embedding(x):
    time = torch.arange(4, device=x.device, dtype=torch.float64)
    powers = torch.arange(0, 4, 2, device=x.device, dtype=torch.float64) / 4
    angles = torch.outer(time, 10000**-powers)
    return x * torch.cat([angles.cos(), angles.sin()], -1).to(x.dtype)


PROGRAMS = {
    "double": lambda x: x.double() * 2,
    "complex": lambda x: torch.view_as_real(x.to(torch.complex64).cdouble() * 1j),
    "conversion": lambda x: x.to(torch.float64).sum(),
    "factory": lambda x: x + torch.eye(4, dtype=torch.float64, device="cuda"),
    "sum": lambda x: x.sum(0, dtype=torch.float64),
    "likeness": lambda x: torch.ones_like(x, dtype=torch.float64) - x,
    "rotary embedding": rotary_embedding,
}


@pytest.mark.filterwarnings("ignore::torchdevice_mode.TorchDeviceWarning")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_compiled_function_computes_in_float32(program, backend, redirected, target):
    compiled = torch.compile(program, backend=backend, fullgraph=True)
    x = torch.arange(16.0, device="cuda").reshape(4, 4)
    with pytest.warns(TorchDeviceWarning, match="asked for (float64|complex128)") as said:
        results = [compiled(x) for _ in range(2)]
    assert [w.filename for w in said] == [__file__]
    expected = program(x)
    for result in results:
        assert (result.device, result.dtype) == (target, torch.float32)
        assert torch.equal(result, expected)


@pytest.mark.filterwarnings("ignore::torchdevice_mode.TorchDeviceWarning")
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_float64_that_stays_on_the_cpu_is_not_compiled(program):
    with torchdevice_mode.redirect(target="cpu"):
        expected = program(torch.arange(16.0).reshape(4, 4))
    with torchdevice_mode.redirect(float64="cpu"):
        compiled = torch.compile(program, backend="aot_eager")
        result = compiled(torch.arange(16.0, device="cuda").reshape(4, 4))
    assert result.dtype is expected.dtype
    assert torch.equal(result.cpu(), expected)


def test_float64_in_a_compiled_function_is_refused_on_request():
    with torchdevice_mode.redirect(float64="error"):
        compiled = torch.compile(PROGRAMS["double"], backend="aot_eager", fullgraph=True)
        with pytest.raises(Exception, match=r"support float64(?s:.*)told float64="):
            compiled(torch.ones(2, device="cuda"))


def test_gradients_flow_through_a_compiled_conversion(redirected):
    x = torch.ones(3, device="cuda", requires_grad=True)
    compiled = torch.compile(
        lambda x: (x.double() ** 2).mean(), backend="aot_eager", fullgraph=True
    )
    with pytest.warns(TorchDeviceWarning, match="float64-downcast"):
        compiled(x).backward()
    assert x.grad.tolist() == pytest.approx([2 / 3] * 3)


def test_a_default_of_float64_is_cast_down_in_a_graph(redirected, target):
    torch.set_default_dtype(torch.float64)
    try:
        compiled = torch.compile(
            lambda n: torch.full((2,), 0.5, device="cuda") * n, backend="eager", fullgraph=True
        )
        with pytest.warns(TorchDeviceWarning, match="float64-downcast"):
            result = compiled(3)
    finally:
        torch.set_default_dtype(torch.float32)
    assert (result.device, result.dtype, result.tolist()) == (target, torch.float32, [1.5, 1.5])


def test_what_is_compiled_for_the_cpu_keeps_float64():
    with torchdevice_mode.redirect(), torchdevice_mode.native():
        compiled = torch.compile(PROGRAMS["double"], backend="eager", fullgraph=True)
        assert compiled(torch.ones(2)).dtype is torch.float64

"""TorchScript programs that name or hold float64, on a target without it."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

import torchdevice_mode
from torchdevice_mode._log import forget_warnings
from torchdevice_mode.errors import TorchDeviceWarning

pytestmark = [
    pytest.mark.simulated_mps,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def warnings_are_said_anew():
    forget_warnings()


def converts(x):
    return x.to(torch.float64) * 2.5 + x.double()


def makes(x):
    return x + torch.linspace(0.0, 1.0, 4, dtype=torch.float64, device=x.device)


def makes_for_cuda(x):
    return x + torch.full([4], 0.5, dtype=torch.double, device="cuda")


def sums_in_branches(x):
    if x.numel() > 2:
        for _ in range(2):
            x = x.cumsum(0, dtype=torch.float64)
    return x


def widens_to_complex(x):
    return torch.view_as_real(x.to(torch.complex128) * 1j)


PROGRAMS = [converts, makes, makes_for_cuda, sums_in_branches, widens_to_complex]


def ones():
    return torch.ones(4, device="cuda")


def plainly(call):
    with torchdevice_mode.redirect(target="cpu"):
        return call()


def assert_close(found, expected):
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-6)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_that_names_float64_computes_in_float32(program, redirected, target):
    scripted = torch.jit.script(program)
    with pytest.warns(TorchDeviceWarning, match="asked for float64") as said:
        for _ in range(2):
            result = scripted(ones())
    assert [w.filename for w in said] == [__file__]
    assert (result.device, result.dtype) == (target, torch.float32)
    with torchdevice_mode.native():
        expected = plainly(lambda: torch.jit.script(program)(ones()))
        assert expected.dtype is torch.float64
        torch.testing.assert_close(result.cpu().double(), expected, rtol=1e-6, atol=0)


def test_on_the_cpu_and_outside_of_redirection_a_program_is_as_exact_as_ever():
    scripted = torch.jit.script(converts)
    with torchdevice_mode.redirect():
        x = torch.ones(4, device="cuda")
        scripted(x)
    assert scripted(torch.ones(4)).dtype is torch.float64
    assert plainly(lambda: scripted(ones())).dtype is torch.float64


@pytest.mark.parametrize(
    "float64, said",
    [("error", 'told float64="error"'), ("cpu", "does not reach into TorchScript")],
)
def test_other_settings_raise_torchs_error_and_say_what_to_do(float64, said):
    scripted = torch.jit.script(converts)
    with torchdevice_mode.redirect(float64=float64):
        with pytest.raises(RuntimeError, match="(?s)doesn't support float64.*" + said):
            scripted(ones())


class Wide(nn.Module):
    """Holds float64 in a parameter, a buffer, an attribute and, once it is traced, in its code."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2, dtype=torch.float64)
        nn.init.constant_(self.layer.weight, 0.25)
        nn.init.constant_(self.layer.bias, 0.5)
        self.register_buffer("shift", torch.arange(2, dtype=torch.float64))
        self.factor = torch.tensor([1.5, 2.5], dtype=torch.float64)

    def forward(self, x):
        return (self.layer(x.to(torch.float64)) + self.shift) * self.factor


def with_a_constant(x):
    return x * torch.tensor(2.5, dtype=torch.float64).to(x.dtype)


def saved(program) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(program, buffer)
    return buffer.getvalue()


FILES = {
    "scripted": lambda: saved(torch.jit.script(Wide())),
    "traced": lambda: saved(torch.jit.trace(with_a_constant, torch.ones(4))),
}


@pytest.mark.parametrize("write", FILES.values(), ids=FILES)
def test_a_file_that_holds_float64_loads_onto_the_target(write, target):
    data = write()
    with torchdevice_mode.redirect():
        with pytest.warns(TorchDeviceWarning, match="a program asked for float64"):
            program = torch.jit.load(io.BytesIO(data), map_location="cuda")
        with torchdevice_mode.cpu_override():
            held = [*program.parameters(), *program.buffers()]
        result = program(ones())
    assert (result.device, result.dtype) == (target, torch.float32)
    assert {(t.device, t.dtype) for t in held} <= {(target, torch.float32)}
    assert_close(result, plainly(lambda: torch.jit.load(io.BytesIO(data))(ones())))


def test_a_file_keeps_float64_on_the_cpu_on_request():
    data = FILES["scripted"]()
    with torchdevice_mode.redirect(float64="cpu"):
        program = torch.jit.load(io.BytesIO(data), map_location="cuda")
    assert {(t.device.type, t.dtype) for t in program.parameters()} == {("cpu", torch.float64)}


def test_a_file_that_holds_float64_is_refused_on_request():
    data = FILES["scripted"]()
    with torchdevice_mode.redirect(float64="error"):
        with pytest.raises(TypeError, match=r'support float64.*told float64="error"'):
            torch.jit.load(io.BytesIO(data), map_location="cuda")

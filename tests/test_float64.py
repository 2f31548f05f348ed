"""float64 and complex128 on a target without them: cast down, kept on the CPU, or refused.

Metal's refusals come from the simulated device, so much here runs in the simulated run only.
"""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch

import torchdevice_mode
from torchdevice_mode import simulate
from torchdevice_mode._log import forget_warnings
from torchdevice_mode.errors import TorchDeviceWarning

on_simulated = pytest.mark.skipif(
    simulate.loaded_device() != "mps", reason="needs the simulated mps device"
)


@pytest.fixture(autouse=True)
def warnings_are_said_anew():
    forget_warnings()


WIDE = np.arange(3.0)
DOUBLES = {
    "factory": lambda: torch.arange(3, dtype=torch.float64, device="cuda"),
    "factory without a device": lambda: torch.arange(3, dtype=torch.double),
    "linspace": lambda: torch.linspace(0, 2, 3, dtype=torch.float64),
    "tensor of an array": lambda: torch.tensor(WIDE, device="cuda"),
    "as_tensor of an array": lambda: torch.as_tensor(WIDE, device="cuda"),
    "as_tensor without a device": lambda: torch.as_tensor(WIDE),
    "new_tensor": lambda: torch.ones(1, device="cuda").new_tensor([0, 1, 2], dtype=torch.float64),
    "to a device": lambda: torch.from_numpy(WIDE).to("cuda"),
    "to by keywords": lambda: torch.arange(3).to(device="cuda", dtype=torch.float64),
    "cuda": lambda: torch.from_numpy(WIDE).cuda(),
    "to a dtype": lambda: torch.arange(3, device="cuda").to(torch.float64),
    "double": lambda: torch.arange(3, device="cuda").double(),
    "type": lambda: torch.arange(3, device="cuda").type(torch.float64),
    "type by name": lambda: torch.arange(3, device="cuda").type("torch.cuda.DoubleTensor"),
    "cumsum": lambda: torch.tensor([0.0, 1, 1], device="cuda").cumsum(0, dtype=torch.float64),
    "softmax": lambda: (
        torch.nn.functional.softmax(torch.zeros(3, device="cuda"), 0, dtype=torch.float64)
        * torch.tensor([0.0, 3, 6], device="cuda")
    ),
    "adoption": lambda: torch.zeros(3, device="cuda") + torch.from_numpy(WIDE),
}


@on_simulated
@pytest.mark.parametrize("call", DOUBLES.values(), ids=DOUBLES)
def test_float64_is_cast_down_where_the_target_lacks_it(redirected, target, events, call):
    with pytest.warns(TorchDeviceWarning, match="float64") as said:
        result = call()
    assert result.device == target
    assert result.dtype is torch.float32
    torch.testing.assert_close(result.cpu().tolist(), [0.0, 1.0, 2.0])
    assert [(w.message.slug, w.filename) for w in said] == [("float64-downcast", __file__)]
    assert events("downcast") == 1


@on_simulated
@pytest.mark.parametrize("call", DOUBLES.values(), ids=DOUBLES)
def test_float64_stays_on_the_cpu_on_request(events, call):
    with torchdevice_mode.redirect(float64="cpu"), warnings.catch_warnings():
        warnings.simplefilter("error", TorchDeviceWarning)
        result = call()
    assert result.device.type == "cpu"
    assert result.dtype is torch.float64
    torch.testing.assert_close(result.tolist(), [0.0, 1.0, 2.0])
    assert events("fallback") + events("adoption") >= 1


@on_simulated
@pytest.mark.parametrize("call", DOUBLES.values(), ids=DOUBLES)
def test_float64_is_torchs_error_on_request(events, call):
    with torchdevice_mode.redirect(float64="error"):
        with pytest.raises((TypeError, RuntimeError), match=r"float64|same device"):
            call()
    assert events("downcast") == events("fallback") == 0


COMPLEX = {
    "factory": lambda: torch.tensor([1 + 2j], dtype=torch.complex128, device="cuda"),
    "data": lambda: torch.tensor(np.array([1 + 2j]), device="cuda"),
    "cuda": lambda: torch.from_numpy(np.array([1 + 2j])).cuda(),
    "cdouble": lambda: torch.tensor([1 + 2j], device="cuda").cdouble(),
}


@on_simulated
@pytest.mark.parametrize("call", COMPLEX.values(), ids=COMPLEX)
def test_complex128_is_cast_down_and_keeps_its_imaginary_part(redirected, target, call):
    with pytest.warns(TorchDeviceWarning, match="float64-downcast"):
        result = call()
    assert (result.device, result.dtype) == (target, torch.complex64)
    assert result.tolist() == [1 + 2j]


LAYERS = {
    "made": lambda: torch.nn.Linear(2, 2, dtype=torch.float64),
    "double": lambda: torch.nn.Linear(2, 2).double(),
    "to": lambda: torch.nn.Linear(2, 2).to(torch.float64),
    "moved": lambda: torch.nn.Linear(2, 2, device="meta", dtype=torch.float64).to_empty(
        device="cuda"
    ),
}


@on_simulated
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_a_layer_in_float64_trains_in_float32(redirected, target, make):
    with pytest.warns(TorchDeviceWarning, match="float64-downcast"):
        layer = make()
        layer(torch.ones(1, 2, device="cuda")).sum().backward()
    for parameter in layer.parameters():
        assert (parameter.device, parameter.dtype) == (target, torch.float32)
        assert parameter.grad.dtype is torch.float32


@on_simulated
@pytest.mark.parametrize(
    "make", [lambda: torch.zeros(2), lambda: torch.tensor([0.5]), lambda: torch.as_tensor([0.5])]
)
def test_a_default_of_float64_is_cast_down(redirected, target, make):
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.warns(TorchDeviceWarning, match="float64-downcast"):
            result = make()
    finally:
        torch.set_default_dtype(torch.float32)
    assert (result.device, result.dtype) == (target, torch.float32)


@on_simulated
def test_a_call_site_warns_of_float64_once(redirected, events):
    def ask():
        return torch.zeros(1, dtype=torch.float64)

    with pytest.warns(TorchDeviceWarning) as said:
        for _ in range(3):
            ask()
        torch.ones(1, dtype=torch.float64)
    here = ask.__code__.co_firstlineno
    assert [w.lineno - here for w in said] == [1, 6]
    assert events("downcast") == 4


@on_simulated
def test_float64_that_torchs_own_code_asks_for_is_left_to_torch(redirected):
    program = "def ask():\n    return torch.zeros(1, dtype=torch.float64, device='cuda')\n"
    as_torch, as_user = {"torch": torch, "__name__": "torch._utils"}, {"torch": torch}
    exec(program, as_torch)
    exec(program, as_user | {"__name__": "somewhere"}, as_user)
    with pytest.raises(TypeError, match="doesn't support float64"):
        as_torch["ask"]()
    with pytest.warns(TorchDeviceWarning):
        assert as_user["ask"]().dtype is torch.float32


@on_simulated
def test_float64_that_comes_by_pickle_keeps_its_values(redirected):
    stored = pickle.dumps(torch.from_numpy(WIDE))
    assert pickle.loads(stored).tolist() == [0, 1, 2]

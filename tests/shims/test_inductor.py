"""Code that Inductor compiles: CUDA's modes, right results, and no cost of ours."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch._dynamo

from torchdevice_mode import _log, redirect
from torchdevice_mode._shims.inductor import _past_the_mode


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    _log.forget_warnings()
    yield
    torch._dynamo.reset()


def said(given):
    return [str(w.message) for w in given if "[compile-graphs]" in str(w.message)]


@pytest.mark.off_cuda
def test_a_mode_that_asks_for_graphs_is_degraded_with_one_warning():
    def loss(x):
        return (x.sin() * torch.full((3,), 2.0, device="cuda")).sum()

    with redirect(), warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        for mode in ("reduce-overhead", "max-autotune"):
            torch._dynamo.reset()
            torch.compiler.cudagraph_mark_step_begin()
            x = torch.ones(3, device="cuda", requires_grad=True)
            torch.compile(loss, mode=mode, fullgraph=True)(x).backward()
            assert torch.allclose(x.grad, 2 * torch.ones(3, device="cuda").cos())
    (message,) = said(given)
    assert "mode='reduce-overhead'" in message


@pytest.mark.filterwarnings("ignore")
def test_compiled_code_runs_past_the_mode_unless_the_target_may_refuse_it(target):
    modes = []
    call = _past_the_mode(lambda self, inputs: modes.append(torch._C._len_torch_function_stack()))
    with redirect():
        call(None, [])
        assert torch._C._len_torch_function_stack() == 1
        with torch.device("cpu"):
            call(None, [])
    call(None, [])
    assert modes == [1 if target.type == "mps" else 0, 2, 0]


def test_the_mode_is_back_where_compiled_code_fails():
    def fail(self, inputs):
        raise ValueError("of the code")

    with redirect():
        with pytest.raises(ValueError, match="of the code"):
            _past_the_mode(fail)(None, [])
        assert torch._C._len_torch_function_stack() == 1


@pytest.mark.filterwarnings("ignore")
def test_code_is_right_where_redirection_begins_or_ends_after_it_was_compiled():
    @torch.compile(fullgraph=True)
    def made(x):
        return x * 2 + torch.ones(3, device=x.device)

    plain = made(torch.ones(3))
    with redirect():
        x = torch.ones(3, device="cuda")
        assert made(x).tolist() == plain.tolist() and made(x).device == x.device
    assert torch.equal(made(torch.ones(3)), plain)

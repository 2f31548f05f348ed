"""Calls that the target refuses, although it has a kernel, are made on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from torchdevice_mode import _on_cpu, _session, redirect

pytestmark = [
    pytest.mark.simulated,
    pytest.mark.filterwarnings("ignore::torchdevice_mode.TorchDeviceWarning"),
]

# As Metal's kernels say it, in several versions of torch.
REFUSALS = [
    "MPS does not support cumsum op with int64 input",
    "Conv3D is not supported on MPS",
    "Adaptive pool MPS: input sizes must be divisible by output sizes. Non-divisible input sizes "
    "are not implemented on MPS device yet. For now, you can manually transfer tensor to cpu in "
    "this case. Please refer to [this issue](https://github.com/pytorch/pytorch/issues/96056)",
    "MPS: Unsupported type for index",
    "\"unique2\" not implemented for 'Long'",
    "Output channels > 65536 not supported at the MPS device. ",
    "MPS device does not support addmm for non-float inputs",
]


@pytest.fixture
def refusing():
    """Make an operator of the device refuse whatever it is given."""
    with torch.library._scoped_library("aten", "IMPL") as library:

        def refuse(name, text, error=RuntimeError, out="out"):
            def kernel(*args, **kwargs):
                raise error(text)

            for overload in (name, f"{name}.{out}"):
                library.impl(overload, kernel, "MPS", allow_override=True)

        yield refuse


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("text", REFUSALS)
def test_a_refused_call_is_made_on_the_cpu(refusing, text, target):
    refusing("tanh", text)
    x = torch.tensor([0.5, 1.0], requires_grad=True)
    with redirect():
        y = torch.tanh(x.cuda())
        assert y.device == target
        assert torch.allclose(y, torch.tensor([0.5, 1.0]).tanh())
        y.sum().backward()
    assert torch.allclose(x.grad, 1 - torch.tensor([0.5, 1.0]).tanh() ** 2)


@pytest.mark.filterwarnings("ignore")
def test_what_the_call_writes_into_is_the_programs_own(refusing):
    refusing("tanh", REFUSALS[0])
    with redirect():
        x = torch.tensor([0.5], device="cuda")
        assert x.tanh_() is x and x.item() == pytest.approx(torch.tensor(0.5).tanh().item())
        out = torch.empty(0, device="cuda")
        assert torch.tanh(x, out=out) is out and out.shape == (1,)


@pytest.mark.filterwarnings("ignore")
def test_it_is_counted_with_its_cost_and_said_once(refusing):
    refusing("tanh", REFUSALS[0])
    with redirect():
        for _ in range(2):
            torch.tanh(torch.ones(4, device="cuda"))
    (entry,) = [
        e
        for e in _session.ledger.entries()
        if e.site.kind == "fallback"
        and e.site.asked == "tanh"
        and "cumsum" in e.site.reason
        and e.site.line == line_of_the_call()
    ]
    assert entry.count == 2 and entry.moved == 2 * 16


def line_of_the_call():
    import inspect

    lines, first = inspect.getsourcelines(test_it_is_counted_with_its_cost_and_said_once)
    return first + next(i for i, line in enumerate(lines) if "torch.tanh(" in line)


@pytest.mark.parametrize(
    "text",
    [
        "Expected a tensor of 2 dimensions",
        "distributed operators are not supported on MPS",
        "MPS backend out of memory (MPS allocated: 1 bytes)",
    ],
)
def test_other_errors_are_torchs(text):
    with redirect() as redirection:
        assert not _on_cpu.refuses_on_the_target(redirection._context, RuntimeError(text))


def test_an_error_of_every_device_stays_an_error():
    with redirect(), pytest.raises((RuntimeError, NotImplementedError), match="not implemented"):
        torch.linalg.eigh(torch.eye(2, dtype=torch.int64, device="cuda").bool())


def test_a_result_in_float64_comes_back_narrowed(target):
    counts = torch.tensor([0, 1, 1])
    with redirect():
        result = torch.bincount(counts.cuda(), weights=counts.cuda())
        assert result.dtype is torch.float32 and result.device == target
        assert result.tolist() == [0.0, 2.0]


# --- in the backward pass -------------------------------------------------------------------------


def refused(name):
    return sum(
        entry.count
        for entry in _session.ledger.entries()
        if entry.site.asked == name and "refuses" in entry.site.reason
    )


@pytest.mark.parametrize(
    "differentiate",
    [
        lambda y, x: y.sum().backward(),
        lambda y, x: torch.autograd.backward(y.sum()),
        lambda y, x: setattr(x, "grad", torch.autograd.grad(y.sum(), x)[0]),
        lambda y, x: setattr(x, "grad", torch.autograd.grad(y.sum(), x, create_graph=True)[0]),
    ],
    ids=["Tensor.backward", "autograd.backward", "autograd.grad", "create_graph"],
)
def test_what_is_refused_in_the_backward_pass_is_made_on_the_cpu(refusing, differentiate, target):
    refusing("tanh_backward", REFUSALS[0], out="grad_input")
    x = torch.tensor([0.5, 1.0])
    expected = 1 - torch.tanh(x) ** 2
    with redirect():
        x = x.to("cuda").requires_grad_()
        before = refused("aten::tanh_backward")
        for times in range(1, 4):
            x.grad = None
            differentiate(torch.tanh(x), x)
            assert torch.allclose(x.grad.cpu(), expected) and x.grad.device == target
            assert refused("aten::tanh_backward") == before + times


def test_later_passes_at_a_line_where_nothing_was_refused_run_without_the_dispatch_mode():
    seen = []

    class Watching(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            seen.append(len(_get_current_dispatch_mode_stack()))
            return grad * 2

    with redirect():
        x = torch.ones(2, device="cuda", requires_grad=True)
        for _ in range(3):
            Watching.apply(x).sum().backward()
    assert seen == [1, 0, 0]

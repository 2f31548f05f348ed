"""`verify=`: operators repeated on the CPU, and differences reported."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch

from torchdevice_mode import (
    SettingsError,
    TorchDeviceWarning,
    VerificationError,
    _log,
    _verify,
    differences,
    ledger,
    redirect,
)


@pytest.fixture(autouse=True)
def nothing_found_before():
    _verify.forget()
    _log.forget_warnings()
    yield
    _verify.forget()


@pytest.fixture
def wrong_tanh():
    """A kernel that is wrong for large values only, as Metal's once was."""

    def tanh(x):
        with torch._C.DisableTorchFunction():
            right = x.to("cpu").tanh()
            return torch.where(right.abs() > 0.9, right * 1.01, right).to(x.device)

    with torch.library._scoped_library("aten", "IMPL") as library:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            library.impl("tanh", tanh, "MPS", allow_override=True)
            library.impl(
                "tanh.out",
                lambda x, *, out: out.resize_(x.shape).copy_(tanh(x)),
                "MPS",
                allow_override=True,
            )
        yield


@pytest.mark.simulated
@pytest.mark.parametrize("verify", [1.0, 0.01, "aten::tanh", "tanh"])
def test_a_wrong_kernel_is_found(wrong_tanh, verify):
    with redirect(verify=verify), pytest.warns(TorchDeviceWarning, match="aten::tanh on mps:0"):
        torch.tanh(torch.tensor([0.1, 5.0], device="cuda"))
    (found,) = differences()
    assert found.operator == "aten::tanh" and found.file == __file__
    assert found.error == pytest.approx(0.01, rel=1e-2)
    assert found.shapes == ((2,),) and found.dtypes == (torch.float32,)
    assert [e for e in ledger().entries() if e.site.kind == "difference"]


@pytest.mark.simulated
def test_it_is_found_in_the_backward_pass_and_in_threads(wrong_tanh):
    def work():
        x = torch.tensor([5.0], device="cuda", requires_grad=True)
        hooked = x * 1
        hooked.register_hook(torch.tanh)
        (hooked * 5).sum().backward()

    with redirect(verify="tanh"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        work()
        assert len(differences()) == 1
        _verify.forget()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(differences()) == 1


@pytest.mark.simulated
def test_it_can_raise(wrong_tanh):
    x = torch.tensor([5.0])
    with redirect(verify=1.0, verify_raise=True), pytest.raises(VerificationError, match="tanh"):
        torch.tanh(x.cuda())


@pytest.mark.simulated
def test_the_largest_difference_of_a_line_is_kept(wrong_tanh):
    with redirect(verify="tanh"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for size in (1, 3):
            torch.tanh(torch.full((size,), 5.0, device="cuda"))
    assert len(differences()) == 1


@pytest.mark.simulated
def test_without_verify_nothing_is_compared(wrong_tanh):
    with redirect():
        torch.tanh(torch.tensor([5.0], device="cuda"))
    assert differences() == []


def test_a_right_program_has_no_differences():
    with redirect(verify=1.0):
        layer = torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True).cuda()
        net = torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.MaxPool2d(2)
        ).cuda()
        optimizer = torch.optim.AdamW([*layer.parameters(), *net.parameters()])
        for _ in range(2):
            x = net(torch.randn(2, 1, 8, 8, device="cuda")).reshape(2, 4, 16)
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = layer(x).square().mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    assert differences() == []


@pytest.mark.parametrize(
    ("actual", "expected", "differs"),
    [
        (torch.ones(3), torch.ones(3, dtype=torch.float64), False),
        (torch.ones(3) * 1.00001, torch.ones(3, dtype=torch.float64), False),
        (torch.ones(3) * 1.001, torch.ones(3, dtype=torch.float64), True),
        (torch.tensor([1.0, 1e-9]), torch.tensor([1.0, 0.0], dtype=torch.float64), False),
        (torch.tensor([float("nan")]), torch.tensor([float("nan")]).double(), False),
        (torch.tensor([float("nan")]), torch.ones(1).double(), True),
        (torch.tensor([float("inf")]).half(), torch.tensor([1e9]).double(), False),
        (torch.tensor([1, 2]), torch.tensor([1, 3]), True),
        (torch.tensor([True]), torch.tensor([True]), False),
        (torch.ones(2), torch.ones(3).double(), True),
        (torch.ones(0), torch.ones(0), False),
        (torch.ones(2).to_sparse(), torch.ones(2).to_sparse().double(), False),
        (torch.ones(2).bfloat16() * 1.01, torch.ones(2).double(), False),
    ],
)
def test_what_is_more_than_rounding(actual, expected, differs):
    assert (_verify._excess(actual, expected, 0.0) > 0) is differs


@pytest.mark.parametrize("value", [-1, 1.5, "no such thing", "1e9", True])
def test_a_bad_share_is_refused(value):
    with pytest.raises(SettingsError, match="neither a share nor an operator"):
        redirect(verify=value)


def test_it_is_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("TORCHDEVICE_VERIFY", "mm")
    with redirect() as redirection:
        assert redirection._context.settings.verify == "mm"

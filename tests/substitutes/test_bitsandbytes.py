"""bitsandbytes' optimizers take the steps of the papers, with a state of 32 bits."""

from __future__ import annotations

import pytest
import torch

import torchdevice_mode
from torchdevice_mode._log import forget_warnings
from torchdevice_mode.errors import TorchDeviceWarning, UnsupportedByTargetError

from ._reference import assert_same
from .test_apex import adam, run


@pytest.fixture(autouse=True)
def substitute():
    with torchdevice_mode.redirect(substitutes=["bitsandbytes"]):
        torch.manual_seed(0)
        forget_warnings()
        yield


def lion(start, grads, lr, betas, decay):
    out, past = [p.clone() for p in start], [torch.zeros_like(p) for p in start]
    for step in grads:
        for n, g in enumerate(step):
            direction = (betas[0] * past[n] + (1 - betas[0]) * g).sign()
            out[n] = out[n] - lr * (direction + decay * out[n])
            past[n] = betas[1] * past[n] + (1 - betas[1]) * g
    return out


def of_torch(kind, start, grads, **options):
    plain = [p.clone().requires_grad_() for p in start]
    optimizer = kind(plain, **options)
    for step in grads:
        for p, g in zip(plain, step, strict=True):
            p.grad = g
        optimizer.step()
    return [p.detach() for p in plain]


@pytest.mark.parametrize("name", ["Adam", "AdamW", "Adam32bit", "PagedAdamW", "PagedAdam32bit"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_decays_parameters(name, decay):
    import bitsandbytes as bnb

    kind = getattr(bnb.optim, name)
    params, start, grads, _ = run(lambda p: kind(p, lr=0.1, weight_decay=decay))
    expected = adam(start, grads, lr=0.1, betas=(0.9, 0.999), eps=1e-8, decay=decay, decoupled=True)
    for found, exact in zip(params, expected, strict=True):
        assert_same(found.detach(), exact)


@pytest.mark.parametrize("name", ["Lion", "Lion32bit", "PagedLion"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lion(name, decay):
    import bitsandbytes as bnb

    kind = getattr(bnb.optim, name)
    params, start, grads, _ = run(lambda p: kind(p, lr=0.1, weight_decay=decay))
    for found, exact in zip(params, lion(start, grads, 0.1, (0.9, 0.99), decay), strict=True):
        assert_same(found.detach(), exact)


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("SGD", torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
        ("RMSprop", torch.optim.RMSprop, {"alpha": 0.9, "weight_decay": 0.1}),
        ("Adagrad", torch.optim.Adagrad, {"weight_decay": 0.1}),
    ],
)
def test_others_are_torchs(name, kind, options):
    import bitsandbytes as bnb

    params, start, grads, _ = run(lambda p: getattr(bnb.optim, name)(p, lr=0.1, **options))
    expected = of_torch(kind, start, grads, lr=0.1, **options)
    for found, exact in zip(params, expected, strict=True):
        assert_same(found.detach(), exact)


def test_the_decay_of_adamw_has_its_default():
    import bitsandbytes as bnb

    p = [torch.ones(1, requires_grad=True)]
    assert bnb.optim.AdamW(p).param_groups[0]["weight_decay"] == 0.01
    assert bnb.optim.Adam(p).param_groups[0]["weight_decay"] == 0.0


@pytest.mark.parametrize(
    ("name", "options"), [("AdamW8bit", {}), ("PagedLion8bit", {}), ("Adam", {"optim_bits": 8})]
)
def test_eight_bits_keep_32_and_say_so_once(name, options):
    import bitsandbytes as bnb

    kind = getattr(bnb.optim, name)
    p = torch.ones(1, requires_grad=True, device="cuda")
    with pytest.warns(TorchDeviceWarning, match=f"{name}.*32 bits.*substitute-8bit") as caught:
        optimizer = kind([p], lr=0.1, **options)
        kind([p], lr=0.1, **options)
    assert len(caught) == 1
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert all(v.dtype == torch.float32 for v in optimizer.state[p].values())


def test_settings_that_do_not_change_results_are_accepted():
    import bitsandbytes as bnb

    p = torch.nn.Linear(1, 1)
    bnb.optim.GlobalOptimManager.get_instance().register_module_override(
        p, "weight", {"optim_bits": 32}
    )
    optimizer = bnb.optim.Adam(
        p.parameters(), min_8bit_size=1, block_wise=True, is_paged=True, args=None
    )
    assert isinstance(optimizer, torch.optim.Optimizer)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda o, p: o.Adam(p, percentile_clipping=5), NotImplementedError, "percentile_clipping"),
        (lambda o, p: o.Adam(p, amsgrad=True), NotImplementedError, "amsgrad"),
        (lambda o, p: o.Adam(p, colour=1), TypeError, "colour"),
        (lambda o, p: o.SGD(p, lr=0.1), NotImplementedError, "SGD without momentum"),
        (lambda o, p: o.RMSprop(p, centered=True), NotImplementedError, "Centered RMSprop"),
        (lambda o, p: o.Adagrad(p, lr_decay=0.1), ValueError, "Lr Decay"),
        (lambda o, p: o.LARS(p), UnsupportedByTargetError, r"bitsandbytes\.optim\.LARS"),
    ],
)
def test_what_is_not_exact_is_refused(make, error, text):
    import bitsandbytes as bnb

    with pytest.raises(error, match=text):
        make(bnb.optim, [torch.ones(1, requires_grad=True)])


@pytest.mark.parametrize("name", ["Linear8bitLt", "Linear4bit", "Params4bit"])
def test_quantised_layers_are_there_to_be_asked_for_and_raise_when_made(name):
    import bitsandbytes as bnb

    kind = getattr(bnb.nn, name)
    assert not isinstance(torch.nn.Linear(1, 1), kind)
    with pytest.raises(UnsupportedByTargetError, match=rf"bitsandbytes\.nn\.{name}"):
        kind(1, 1)

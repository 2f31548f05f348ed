"""apex's optimizers, norms and mixed precision give what their definitions say."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import torchdevice_mode
from torchdevice_mode.errors import UnsupportedByTargetError

from ._reference import assert_same


@pytest.fixture(autouse=True)
def substitute():
    with torchdevice_mode.redirect(substitutes=["apex"]):
        torch.manual_seed(0)
        yield


# --- optimizers ---------------------------------------------------------------------------------

STEPS = 3


def run(make, dtype=torch.float32):
    """Two parameters after some steps, and what they and their gradients were."""
    params = [torch.randn(3, 4, device="cuda").to(dtype), torch.randn(5, device="cuda").to(dtype)]
    params = [p.requires_grad_() for p in params]
    grads = [[torch.randn_like(p) for p in params] for _ in range(STEPS)]
    start = [p.detach().cpu().double().clone() for p in params]
    optimizer = make(params)
    for step in grads:
        optimizer.zero_grad()
        for p, g in zip(params, step, strict=True):
            p.grad = g.clone()
        optimizer.step()
    return params, start, [[g.cpu().double().clone() for g in step] for step in grads], optimizer


def adam(start, grads, *, lr, betas, eps, decay, decoupled, correct=True, average=True, lamb=None):
    """The definition, in float64; `lamb` holds the bound of the norm, for LAMB."""
    out = [p.clone() for p in start]
    first = [torch.zeros_like(p) for p in start]
    second = [torch.zeros_like(p) for p in start]
    for t, step in enumerate(grads, 1):
        bound = 1.0
        if lamb:
            bound = max(1.0, math.sqrt(sum((g**2).sum().item() for g in step)) / lamb)
        for n, g in enumerate(step):
            g = g / bound
            if not decoupled:
                g = g + decay * out[n]
            share = 1 - betas[0] if average else 1.0
            first[n] = betas[0] * first[n] + share * g
            second[n] = betas[1] * second[n] + (1 - betas[1]) * g * g
            c1, c2 = (1 - betas[0] ** t, 1 - betas[1] ** t) if correct else (1, 1)
            direction = (first[n] / c1) / ((second[n] / c2).sqrt() + eps)
            if decoupled:
                direction = direction + decay * out[n]
            if lamb and decay:
                direction = direction * out[n].norm() / direction.norm()
            out[n] = out[n] - lr * direction
    return out


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_fused_adam(decoupled, correct, decay):
    from apex.optimizers import FusedAdam

    params, start, grads, _ = run(
        lambda p: FusedAdam(
            p, lr=0.1, adam_w_mode=decoupled, bias_correction=correct, weight_decay=decay
        )
    )
    expected = adam(
        start,
        grads,
        lr=0.1,
        betas=(0.9, 0.999),
        eps=1e-8,
        decay=decay,
        decoupled=decoupled,
        correct=correct,
    )
    for found, exact in zip(params, expected, strict=True):
        assert_same(found.detach(), exact)


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_fused_lamb(decoupled, average, decay):
    from apex.optimizers import FusedLAMB

    params, start, grads, _ = run(
        lambda p: FusedLAMB(
            p, lr=0.1, adam_w_mode=decoupled, grad_averaging=average, weight_decay=decay
        )
    )
    expected = adam(
        start,
        grads,
        lr=0.1,
        betas=(0.9, 0.999),
        eps=1e-6,
        decay=decay,
        decoupled=decoupled,
        average=average,
        lamb=1.0,
    )
    for found, exact in zip(params, expected, strict=True):
        assert_same(found.detach(), exact)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9, "weight_decay": 0.1},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.9, "dampening": 0.5},
    ],
)
def test_fused_sgd_is_torchs(options):
    from apex.optimizers import FusedSGD

    params, start, grads, _ = run(lambda p: FusedSGD(p, lr=0.1, **options))
    plain = [p.clone().requires_grad_() for p in start]
    optimizer = torch.optim.SGD(plain, lr=0.1, **options)
    for step in grads:
        for p, g in zip(plain, step, strict=True):
            p.grad = g
        optimizer.step()
    for found, exact in zip(params, plain, strict=True):
        assert_same(found.detach(), exact.detach())


def test_state_stays_in_float32_for_parameters_of_half_the_size():
    from apex.optimizers import FusedAdam

    params, _, _, optimizer = run(lambda p: FusedAdam(p, lr=0.1), torch.bfloat16)
    assert params[0].dtype == torch.bfloat16
    assert optimizer.state[params[0]]["exp_avg"].dtype == torch.float32
    other = FusedAdam(params, lr=0.5)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["lr"] == 0.1 and other.param_groups[0]["step"] == STEPS
    for p in params:
        for name, value in optimizer.state[p].items():
            assert torch.equal(other.state[p][name], value)
            assert other.state[p][name].dtype == torch.float32


def test_what_the_optimizers_refuse():
    from apex.optimizers import FusedAdam, FusedLAMB, FusedNovoGrad

    p = [torch.ones(1, requires_grad=True)]
    with pytest.raises(RuntimeError, match="AMSGrad"):
        FusedAdam(p, amsgrad=True)
    with pytest.raises(RuntimeError, match="AMSGrad"):
        FusedLAMB(p, amsgrad=True)
    with pytest.raises(NotImplementedError, match="master_weights"):
        FusedAdam(p, master_weights=True)
    with pytest.raises(NotImplementedError, match=r"apex\.optimizers\.FusedNovoGrad"):
        FusedNovoGrad(p)


def test_gradients_are_dropped_or_filled_with_zero():
    from apex.optimizers import FusedAdam

    p = torch.ones(1, requires_grad=True, device="cuda")
    for drop in (True, False):
        p.grad = torch.ones_like(p)
        FusedAdam([p], set_grad_none=drop).zero_grad()
        assert (p.grad is None) == drop


# --- norms --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [8, (2, 8)])
@pytest.mark.parametrize(
    "name", ["FusedLayerNorm", "FusedRMSNorm", "MixedFusedLayerNorm", "MixedFusedRMSNorm"]
)
def test_norms(name, shape, dtype):
    import apex

    layer = getattr(apex.normalization, name)(shape, eps=1e-4).to("cuda")
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn_like(p))
    x = torch.randn(3, 2, 8, device="cuda").to(dtype).requires_grad_()
    out = layer(x)
    assert out.dtype == (torch.float32 if "Mixed" in name else dtype)
    wide = x.cpu().double()
    dims = (-1,) if shape == 8 else (-2, -1)
    if "Layer" in name:
        wide = wide - wide.mean(dims, keepdim=True)
    expected = wide / (wide.square().mean(dims, keepdim=True) + 1e-4).sqrt()
    expected = expected * layer.weight.cpu().double()
    if "Layer" in name:
        expected = expected + layer.bias.cpu().double()
    assert_same(out, expected, dtype)
    (found,) = torch.autograd.grad(out.float().square().sum(), x)
    (exact,) = torch.autograd.grad(expected.square().sum(), x)
    assert_same(found, exact.double(), torch.bfloat16 if dtype != torch.float32 else dtype)


def test_norms_as_functions_and_without_weight():
    from apex.normalization import FusedLayerNorm
    from apex.normalization.fused_layer_norm import fused_layer_norm_affine, fused_rms_norm

    x, weight = torch.randn(3, 8, device="cuda"), torch.randn(8, device="cuda")
    plain = nn.functional.layer_norm(x, (8,), weight, weight, 1e-6)
    assert_same(fused_layer_norm_affine(x, weight, weight, 8), plain.cpu())
    assert_same(fused_rms_norm(x, (8,)), nn.functional.rms_norm(x, (8,), eps=1e-6).cpu())
    bare = FusedLayerNorm(8, elementwise_affine=False)
    assert_same(bare(x), nn.functional.layer_norm(x, (8,)).cpu())
    assert not list(bare.parameters())


# --- mixed precision ----------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, x):
        self.seen = self.first(x)
        return self.last(torch.relu(self.norm(self.seen)))


def train(level, steps=6, **options):
    from apex import amp

    torch.manual_seed(0)
    model = Net().to("cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model, optimizer = amp.initialize(model, optimizer, opt_level=level, verbosity=0, **options)
    x, y = torch.randn(16, 4, device="cuda"), torch.randint(2, (16,), device="cuda")
    losses = []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        with amp.scale_loss(loss, optimizer) as scaled:
            scaled.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model, optimizer


LEVELS = {
    # level: type of the linear layers, of the batch norm, of what is computed between
    "O0": (torch.float32, torch.float32, torch.float32),
    "O1": (torch.float32, torch.float32, torch.float16),
    "O2": (torch.float16, torch.float32, torch.float16),
    "O3": (torch.float16, torch.float16, torch.float16),
}


@pytest.mark.parametrize("level", LEVELS)
def test_levels_train_alike_each_in_its_types(level):
    weights, norm, between = LEVELS[level]
    losses, model, optimizer = train(level)
    assert (model.first.weight.dtype, model.norm.weight.dtype) == (weights, norm)
    assert model.seen.dtype == between
    assert model(torch.randn(4, 4, device="cuda")).dtype == torch.float32
    assert all(v.dtype == torch.float32 for n, v in model.state_dict().items() if "num" not in n)
    if level != "O3":
        assert all(p.dtype == torch.float32 for p in optimizer.param_groups[0]["params"])
    plain, _, _ = train("O0", loss_scale=1.0)
    assert losses == pytest.approx(plain, abs=2e-2)
    assert losses[-1] < losses[0]


def test_float32_is_that_of_plain_torch():
    torch.manual_seed(0)
    model = Net().to("cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = torch.randn(16, 4, device="cuda"), torch.randint(2, (16,), device="cuda")
    plain = []
    for _ in range(6):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        plain.append(loss.item())
    assert train("O0")[0] == pytest.approx(plain, abs=1e-6)
    assert train("O0", enabled=False)[0] == pytest.approx(plain, abs=1e-6)
    assert train("O0", loss_scale="128.0")[0] == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_an_overflow_skips_the_step_and_halves_the_scale(level, capsys):
    from apex import amp

    model = nn.Linear(2, 1).to("cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = amp.initialize(model, optimizer, opt_level=level)
    before = [p.clone() for p in amp.master_params(optimizer)]
    for expected in (2.0**15, 2.0**14):
        with amp.scale_loss(model(torch.ones(1, 2, device="cuda")).sum(), optimizer) as scaled:
            (scaled * math.inf).backward()
        optimizer.step()
        optimizer.zero_grad()
        assert amp.state_dict() == {"loss_scaler0": {"loss_scale": expected, "unskipped": 0}}
    for now, then in zip(amp.master_params(optimizer), before, strict=True):
        assert torch.equal(now, then)
    assert "Gradient overflow." in capsys.readouterr().out
    with amp.scale_loss(model(torch.ones(1, 2, device="cuda")).sum(), optimizer) as scaled:
        scaled.backward()
    optimizer.step()
    assert not torch.equal(next(amp.master_params(optimizer)), before[0])
    assert amp.state_dict()["loss_scaler0"]["unskipped"] == 1
    amp.load_state_dict({"loss_scaler0": {"loss_scale": 8.0, "unskipped": 5}})
    assert amp.state_dict()["loss_scaler0"] == {"loss_scale": 8.0, "unskipped": 5}


@pytest.mark.parametrize("level", ["O0", "O1", "O2"])
@pytest.mark.parametrize("delay", [False, True])
def test_gradients_of_several_passes_add_up(level, delay):
    from apex import amp

    torch.manual_seed(0)
    model = nn.Linear(3, 1).to("cuda")
    plain = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = amp.initialize(
        model, optimizer, opt_level=level, loss_scale=4.0, verbosity=0
    )
    batches = [torch.randn(2, 3, device="cuda") for _ in range(3)]
    for n, x in enumerate(batches):
        with amp.scale_loss(
            model(x).square().sum(), optimizer, delay_unscale=delay and n < 2
        ) as scaled:
            scaled.backward()
        plain(x).square().sum().backward()
    for found, exact in zip(amp.master_params(optimizer), plain.parameters(), strict=True):
        assert_same(found.grad, exact.grad.cpu(), torch.bfloat16)


def test_a_scheduler_of_learning_rates_takes_the_optimizer(recwarn):
    from apex import amp

    model = nn.Linear(2, 1).to("cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = amp.initialize(model, optimizer, opt_level="O1", verbosity=0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with amp.scale_loss(model(torch.ones(1, 2, device="cuda")).sum(), optimizer) as scaled:
        scaled.backward()
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    assert not [w for w in recwarn if "lr_scheduler" in str(w.message)]


def test_several_models_optimizers_and_losses():
    from apex import amp

    models = [nn.Linear(2, 2).to("cuda") for _ in range(2)]
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in models]
    models, optimizers = amp.initialize(models, optimizers, opt_level="O1", num_losses=2)
    x = torch.ones(1, 2, device="cuda")
    with amp.scale_loss(models[1](models[0](x)).sum(), optimizers, loss_id=1) as scaled:
        scaled.backward()
    assert all(p.grad is not None for m in models for p in m.parameters())
    assert sorted(amp.state_dict()) == ["loss_scaler0", "loss_scaler1"]
    assert isinstance(amp.initialize(nn.Linear(2, 2), opt_level="O1"), nn.Linear)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda amp, m, o: amp.initialize(m, o, opt_level="O4"), "Unexpected optimization level"),
        (lambda amp, m, o: amp.initialize(m.half(), o), r"do not need to call .half\(\)"),
        (lambda amp, m, o: amp.initialize(nn.DataParallel(m), o), "Parallel wrappers"),
        (lambda amp, m, o: [amp.initialize(m, o) for _ in range(2)], "passed through"),
    ],
)
def test_what_initialize_refuses(change, text):
    from apex import amp

    model = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match=text):
        change(amp, model, torch.optim.SGD(model.parameters(), lr=0.1))


# --- parallel -----------------------------------------------------------------------------------


def test_batch_norms_are_converted():
    from apex.parallel import SyncBatchNorm, convert_syncbn_model

    model = convert_syncbn_model(Net())
    assert type(model.norm) is SyncBatchNorm
    with pytest.raises(UnsupportedByTargetError, match="channel_last"):
        SyncBatchNorm(3, channel_last=True)


def test_gradients_are_averaged_over_processes(tmp_path):
    from apex.parallel import DistributedDataParallel

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        model = DistributedDataParallel(nn.Linear(2, 1).to("cuda"), delay_allreduce=True)
        model(torch.ones(1, 2, device="cuda")).sum().backward()
        assert_same(model.module.weight.grad, torch.ones(1, 2))
        with pytest.raises(UnsupportedByTargetError, match="gradient_average"):
            DistributedDataParallel(nn.Linear(2, 1), gradient_average=False)
    finally:
        torch.distributed.destroy_process_group()


def test_larc_is_a_module_and_the_class_in_it():
    from apex import parallel
    from apex.parallel import LARC as OF_PACKAGE
    from apex.parallel.LARC import LARC

    assert parallel.LARC is OF_PACKAGE is LARC
    assert isinstance(LARC, type)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_layers_have_learning_rates_of_their_own(clip, decay):
    from apex.parallel import LARC

    params = [torch.randn(3, 4, device="cuda"), torch.zeros(5, device="cuda")]
    params = [p.requires_grad_() for p in params]
    start = [p.detach().cpu().clone() for p in params]
    optimizer = LARC(torch.optim.SGD(params, lr=0.1, weight_decay=decay), clip=clip)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer.optim, 1)
    for p in params:
        p.grad = torch.randn_like(p)
    grads = [p.grad.cpu().clone() for p in params]
    optimizer.step()
    scheduler.step()
    for found, p, g in zip(params, start, grads, strict=True):
        if p.norm() > 0:
            rate = 0.02 * p.norm() / (g.norm() + decay * p.norm() + 1e-8)
            rate = min(rate / 0.1, 1.0) if clip else rate
            g = (g + decay * p) * rate
        assert_same(found.detach(), p - 0.1 * g)
    assert optimizer.param_groups[0]["weight_decay"] == decay
    optimizer.zero_grad()
    assert params[0].grad is None


def test_there_are_no_kernels_for_many_tensors():
    from apex.multi_tensor_apply import multi_tensor_applier

    assert not multi_tensor_applier.available
    with pytest.raises(NotImplementedError, match="multi_tensor_applier"):
        multi_tensor_applier(None, None, [])

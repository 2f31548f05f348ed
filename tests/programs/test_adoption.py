"""Programs that leave something on the CPU compute what they compute wholly on the CPU.

Each is run twice: redirected, where `place` moves to the accelerator and all else is left on the
CPU; and in plain torch, where nothing moves. What it returns must be equal, number by number.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree

import torchdevice_mode
from torchdevice_mode import simulate


def numbers(*shape, offset=0.0):
    """A CPU tensor under every policy, with values of its own."""
    count = int(np.prod(shape))
    values = np.sin(np.arange(count) + 1 + offset).astype(np.float32)
    return torch.from_numpy(values.reshape(shape))


def leaf(*shape, offset=0.0):
    return numbers(*shape, offset=offset).requires_grad_()


def indices(*values):
    return torch.from_numpy(np.array(values))


def left(make):
    """What is made in plain torch, and stays on the CPU."""
    with torchdevice_mode.native():
        torch.manual_seed(0)
        return make()


@pytest.fixture(params=["force", "explicit"])
def on_both(request):
    """Runs a program redirected and plain, and compares what it returns."""

    def run(program):
        with torchdevice_mode.redirect(policy=request.param), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            actual = program(lambda value: value.to("cuda"))
        expected = program(lambda value: value)
        pairs = zip(pytree.tree_leaves(actual), pytree.tree_leaves(expected), strict=True)
        for one, other in pairs:
            torch.testing.assert_close(one.detach().cpu(), other.detach(), rtol=1e-5, atol=1e-6)
        return actual

    return run


# --- losses ---------------------------------------------------------------------------------

CHANCES = torch.softmax(numbers(3, 4), 1).detach()

# Each is given an input of (3, 4) on the accelerator; targets and weights are left on the CPU.
LOSSES = {
    "mse": lambda x: F.mse_loss(x, numbers(3, 4)),
    "l1": lambda x: F.l1_loss(x, numbers(3, 4)),
    "smooth_l1": lambda x: F.smooth_l1_loss(x, numbers(3, 4)),
    "huber": lambda x: F.huber_loss(x, numbers(3, 4), delta=0.5),
    "cross_entropy": lambda x: F.cross_entropy(x, indices(1, 0, 3)),
    "cross_entropy by chances": lambda x: F.cross_entropy(x, CHANCES),
    "cross_entropy with weights": lambda x: F.cross_entropy(
        x, indices(1, 0, 3), weight=numbers(4).abs(), label_smoothing=0.1
    ),
    "nll": lambda x: F.nll_loss(x.log_softmax(1), indices(1, 0, 3), weight=numbers(4).abs()),
    "nll in the plane": lambda x: F.nll_loss(
        x.log_softmax(1).reshape(3, 4, 1, 1), indices(1, 0, 3).reshape(3, 1, 1)
    ),
    "binary": lambda x: F.binary_cross_entropy(x.sigmoid(), CHANCES, weight=numbers(4).abs()),
    "binary with logits": lambda x: F.binary_cross_entropy_with_logits(
        x, CHANCES, pos_weight=numbers(4).abs(), weight=numbers(3, 1).abs()
    ),
    "kl_div": lambda x: F.kl_div(x.log_softmax(1), CHANCES, reduction="batchmean"),
    "poisson": lambda x: F.poisson_nll_loss(x, CHANCES),
    "gaussian": lambda x: F.gaussian_nll_loss(x, numbers(3, 4), numbers(3, 4).abs() + 0.1),
    "hinge": lambda x: F.hinge_embedding_loss(x, numbers(3, 4).sign()),
    "ranking": lambda x: F.margin_ranking_loss(x, numbers(3, 4), numbers(3, 4).sign()),
    "triplet": lambda x: F.triplet_margin_loss(x, numbers(3, 4), numbers(3, 4, offset=9)),
    "cosine": lambda x: F.cosine_embedding_loss(x, numbers(3, 4), indices(1, -1, 1)),
    "soft margin": lambda x: F.soft_margin_loss(x, numbers(3, 4).sign()),
    "multi margin": lambda x: F.multi_margin_loss(x, indices(1, 0, 3), weight=numbers(4).abs()),
    "multilabel": lambda x: F.multilabel_soft_margin_loss(x, CHANCES.round(), weight=numbers(4)),
    "ctc": lambda x: F.ctc_loss(
        x.log_softmax(1).reshape(3, 1, 4), indices([1, 2]), indices(3), indices(2)
    ),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_loss_takes_targets_and_weights_from_the_cpu(on_both, loss):
    if loss is LOSSES["ctc"] and simulate.loaded_device() == "cuda":
        pytest.skip("the simulated device does not have cuDNN's own operator")

    def program(place):
        x = leaf(3, 4)
        value = loss(place(x))
        value.backward()
        assert x.grad.device.type == "cpu"
        return value, x.grad

    on_both(program)


# --- modules whose weights stayed behind ----------------------------------------------------


def twice(make, *sizes):
    """A layer that is made anew for each run, and its input."""
    return make, lambda: numbers(*sizes)


MODULES = {
    "Linear": twice(lambda: nn.Linear(4, 2), 3, 4),
    "Bilinear": (lambda: Both(nn.Bilinear(4, 4, 2)), lambda: numbers(3, 4)),
    "Conv1d": twice(lambda: nn.Conv1d(4, 2, 2), 1, 4, 5),
    "Conv2d": twice(lambda: nn.Conv2d(2, 4, 3, groups=2, padding=1), 1, 2, 4, 4),
    "ConvTranspose2d": twice(lambda: nn.ConvTranspose2d(2, 3, 2), 1, 2, 3, 3),
    "BatchNorm2d": twice(lambda: nn.BatchNorm2d(2), 2, 2, 3, 3),
    "BatchNorm2d as it learned": twice(lambda: nn.BatchNorm2d(2).eval(), 2, 2, 3, 3),
    "LayerNorm": twice(lambda: nn.LayerNorm(4), 3, 4),
    "GroupNorm": twice(lambda: nn.GroupNorm(2, 4), 3, 4),
    "InstanceNorm1d": twice(
        lambda: nn.InstanceNorm1d(4, affine=True, track_running_stats=True), 3, 4, 5
    ),
    "PReLU": twice(lambda: nn.PReLU(4), 3, 4),
    "Embedding": (lambda: nn.Embedding(5, 3, padding_idx=0), lambda: indices([1, 0], [4, 1])),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(5, 3, mode="sum"), lambda: indices([1, 0], [4, 1])),
    "RNN": twice(lambda: First(nn.RNN(4, 3)), 5, 2, 4),
    "GRU": twice(lambda: First(nn.GRU(4, 3, num_layers=2, bidirectional=True)), 5, 2, 4),
    "LSTM": twice(lambda: First(nn.LSTM(4, 3, num_layers=2)), 5, 2, 4),
    "LSTM with a projection": twice(lambda: First(nn.LSTM(4, 3, proj_size=2)), 5, 2, 4),
    "LSTM of packed sequences": twice(lambda: Packed(nn.LSTM(4, 3)), 5, 2, 4),
    "LSTMCell": twice(lambda: First(nn.LSTMCell(4, 3)), 2, 4),
    "MultiheadAttention": twice(lambda: ToItself(nn.MultiheadAttention(4, 2)), 3, 1, 4),
    "TransformerEncoderLayer": twice(
        lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0), 3, 1, 4
    ),
    "weight_norm": twice(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)), 3, 4),
    "spectral_norm": twice(lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 2)), 3, 4),
    "a buffer": twice(lambda: WithBuffer(), 3, 4),
}


class First(nn.Module):
    """The first thing that a layer returns."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


class Packed(First):
    def forward(self, x):
        packed = nn.utils.rnn.pack_padded_sequence(x, [5, 3])
        return self.layer(packed)[0].data


class ToItself(First):
    def forward(self, x):
        return self.layer(x, x, x)[0]


class Both(First):
    def forward(self, x):
        return self.layer(x, x)


class WithBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", numbers(4))
        self.bias = nn.Parameter(numbers(4, offset=3))

    def forward(self, x):
        return x * self.scale + self.bias


@pytest.mark.parametrize(("make", "given"), MODULES.values(), ids=MODULES)
def test_a_module_left_on_the_cpu_computes_and_learns(on_both, make, given):
    def program(place):
        module, x = left(make), given()
        result = module(place(x))
        (result * place(torch.ones(result.shape))).square().sum().backward()
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        assert gradients
        assert {g.device.type for g in gradients} == {"cpu"}
        return result, gradients, list(module.buffers())

    on_both(program)


# --- modules that are given something from the CPU ------------------------------------------

GIVEN = {
    "an index of Embedding": (lambda: nn.Embedding(5, 3), lambda m: m(indices(1, 4))),
    "offsets of EmbeddingBag": (
        lambda: nn.EmbeddingBag(5, 3, mode="sum"),
        lambda m: m(indices(1, 4, 2, 0), indices(0, 2), per_sample_weights=numbers(4)),
    ),
    "the state of an LSTM": (
        lambda: nn.LSTM(4, 3),
        lambda m: m(m.place(numbers(5, 2, 4)), (numbers(1, 2, 3), numbers(1, 2, 3)))[0],
    ),
    "the state of an LSTM of packed sequences": (
        lambda: nn.LSTM(4, 3),
        lambda m: (
            m(
                nn.utils.rnn.pack_padded_sequence(m.place(numbers(5, 2, 4)), indices(5, 3)),
                (numbers(1, 2, 3), numbers(1, 2, 3)),
            )[0].data
        ),
    ),
    "the state of a GRUCell": (
        lambda: nn.GRUCell(4, 3),
        lambda m: m(m.place(numbers(2, 4)), numbers(2, 3)),
    ),
    "masks of MultiheadAttention": (
        lambda: nn.MultiheadAttention(4, 2),
        lambda m: m(
            *[m.place(numbers(3, 2, 4))] * 3,
            attn_mask=numbers(3, 3) > 0.9,
            key_padding_mask=numbers(2, 3) > 0.9,
        )[0],
    ),
    "a mask of Transformer": (
        lambda: nn.Transformer(4, 2, 1, 1, 8, dropout=0.0),
        lambda m: m(
            m.place(numbers(3, 1, 4)),
            m.place(numbers(2, 1, 4)),
            tgt_mask=indices([0, 1], [0, 0]).bool(),
        ),
    ),
    "the grid of a sampler": (
        lambda: nn.Conv2d(1, 1, 1),
        lambda m: F.grid_sample(
            m(m.place(numbers(1, 1, 4, 4))), numbers(1, 2, 2, 2), align_corners=False
        ),
    ),
}


@pytest.mark.parametrize(("make", "call"), GIVEN.values(), ids=GIVEN)
def test_a_module_takes_arguments_from_the_cpu(on_both, make, call):
    def program(place):
        module = place(left(make))
        module.place = place
        result = call(module)
        result.square().sum().backward()
        return result, [p.grad for p in module.parameters()]

    on_both(program)


# --- optimizers -----------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "Adam": (torch.optim.Adam, {"lr": 0.1, "amsgrad": True}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.1}),
    "Adam at a rate from the CPU": (torch.optim.Adam, {"lr": torch.from_numpy(np.array(0.1))}),
    "RMSprop": (torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.9, "centered": True}),
    "Adagrad": (torch.optim.Adagrad, {"lr": 0.1}),
    "Adadelta": (torch.optim.Adadelta, {"lr": 1.0}),
    "NAdam": (torch.optim.NAdam, {"lr": 0.1}),
    "RAdam": (torch.optim.RAdam, {"lr": 0.1}),
    "Rprop": (torch.optim.Rprop, {"lr": 0.1}),
}


class Mixed(nn.Module):
    """Parameters on both devices."""

    def __init__(self, place):
        super().__init__()
        self.left = nn.Parameter(numbers(4, 3))
        self.placed = nn.Parameter(place(numbers(3, offset=5)))

    def loss(self, place):
        return (((place(numbers(2, 4)) @ self.left) * self.placed) - 1).square().sum()


def trained(module, optimizer, place, *, clip=False, scaler=None):
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = module.loss(place)
        (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is not None:
            scaler.unscale_(optimizer)
        if clip:
            losses.append(nn.utils.clip_grad_norm_(module.parameters(), 0.5))
            nn.utils.clip_grad_value_(module.parameters(), 0.4)
        optimizer.step() if scaler is None else scaler.step(optimizer)
        if scaler is not None:
            scaler.update()
        losses.append(loss)
    assert module.left.device.type == module.left.grad.device.type == "cpu"
    return losses, list(module.parameters())


@pytest.mark.parametrize("way", [{}, {"foreach": True}, {"foreach": False}], ids=str)
@pytest.mark.parametrize(("kind", "options"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizer_steps_parameters_on_both_devices(on_both, kind, options, way):
    if isinstance(options["lr"], torch.Tensor) and way.get("foreach"):
        pytest.skip("torch refuses it")

    def program(place):
        module = Mixed(place)
        return trained(module, kind(module.parameters(), **options, **way), place)

    on_both(program)


def test_lbfgs_searches_over_parameters_on_both_devices(on_both):
    def program(place):
        module = Mixed(place)
        optimizer = torch.optim.LBFGS(
            module.parameters(), max_iter=3, line_search_fn="strong_wolfe"
        )

        def closure():
            optimizer.zero_grad()
            loss = module.loss(place)
            loss.backward()
            return loss

        return [optimizer.step(closure) for _ in range(2)], list(module.parameters())

    on_both(program)


@pytest.mark.parametrize("foreach", [None, False])
def test_gradients_on_both_devices_are_clipped_together(on_both, foreach):
    def program(place):
        module = Mixed(place)
        module.loss(place).backward()
        norm = nn.utils.clip_grad_norm_(module.parameters(), 0.5, foreach=foreach)
        nn.utils.clip_grad_value_(module.parameters(), 0.2, foreach=foreach)
        return norm, [p.grad for p in module.parameters()]

    on_both(program)


def test_gradients_on_both_devices_are_scaled_and_averaged(on_both):
    def program(place):
        module = Mixed(place)
        scaler = torch.amp.GradScaler(str(place(numbers(1)).device.type), init_scale=8.0)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        results = trained(module, optimizer, place, clip=True, scaler=scaler)
        averaged = torch.optim.swa_utils.AveragedModel(module)
        averaged.update_parameters(module)
        averaged.update_parameters(module)
        return results, list(averaged.module.parameters())

    on_both(program)


@pytest.mark.off_cuda  # which torch looks for, to refuse what adoption takes
def test_parameters_on_both_devices_become_a_vector_and_back(on_both):
    def program(place):
        module = Mixed(place)
        vector = nn.utils.parameters_to_vector(module.parameters())
        nn.utils.vector_to_parameters(vector * 2, module.parameters())
        return vector, list(module.parameters())

    on_both(program)


# --- state between devices ------------------------------------------------------------------


def test_states_are_loaded_across_devices(on_both):
    def program(place):
        one, other = Mixed(place), left(lambda: Mixed(lambda value: value))
        with torch.no_grad():
            other.left.mul_(2)
            other.placed.mul_(3)
        one.load_state_dict(other.state_dict())
        assert one.placed.device == place(numbers(1)).device
        optimizers = [torch.optim.Adam(module.parameters(), lr=0.1) for module in (one, other)]
        trained(other, optimizers[1], place)
        optimizers[0].load_state_dict(optimizers[1].state_dict())
        return trained(one, optimizers[0], place)

    on_both(program)

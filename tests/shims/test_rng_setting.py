"""`rng="cpu"`: the random numbers of a run on the CPU, whatever the target."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import torchdevice_mode
from torchdevice_mode import _active
from torchdevice_mode._shims import cpu_random
from torchdevice_mode.errors import SettingsError

TARGET = str(torchdevice_mode.explain("cuda").device)


def seed_apart(seed: int) -> None:
    """Seed the CPU's numbers, and the target's differently: only the CPU's give `seed`'s."""
    torch.manual_seed(seed + 1)
    torch.default_generator.manual_seed(seed)


def drawn(function, device: str, seed: int = 5):
    seed_apart(seed)
    results = function(torch.device(device))
    results = results if isinstance(results, (tuple, list)) else [results]
    with torchdevice_mode.native():
        return [result.detach().cpu() for result in results]


def expect_cpus_numbers(function, *, rounded: bool = False, **settings):
    """A function of a device gives the same numbers plain on the CPU and redirected.

    Rounded, where an accelerator computes other sums than the CPU, random numbers apart.
    """
    state_before = torch.get_rng_state()
    expected = drawn(function, "cpu")
    state_after = torch.get_rng_state()
    with torchdevice_mode.redirect(rng="cpu", **settings):
        found = drawn(function, "cuda")
    assert torch.equal(torch.get_rng_state(), state_after), "another count of numbers was drawn"
    torch.set_rng_state(state_before)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype is other.dtype
        if rounded:
            torch.testing.assert_close(one, other)
        else:
            assert torch.equal(one, other)


def probabilities(device):
    return torch.linspace(0.1, 0.9, 40).reshape(5, 8).to(device)


def filled(method, *arguments, **options):
    """In-place drawing into memory of several layouts."""

    def run(device):
        dense = torch.zeros(6, 8, device=device)
        stepped = torch.zeros(6, 8, device=device)
        few = torch.zeros(3, device=device)
        for tensor in (dense, stepped[:, ::2], stepped.t()[1::3], few, dense[2:3]):
            getattr(tensor, method)(*arguments, **options)
        return dense, stepped, few

    return run


FUNCTIONS = {
    "rand": lambda d: torch.rand(5, 8, device=d),
    "randn": lambda d: torch.randn(40, device=d),
    "randn few": lambda d: torch.randn(3, device=d),
    "randn half": lambda d: torch.randn(40, device=d, dtype=torch.float16),
    "randint": lambda d: torch.randint(3, 900, (7,), device=d),
    "randperm": lambda d: torch.randperm(30, device=d),
    "randperm out": lambda d: torch.randperm(30, out=torch.empty(0, dtype=torch.int64, device=d)),
    "rand out": lambda d: torch.rand(3, 4, out=torch.empty(3, 4, device=d)),
    "rand_like": lambda d: torch.rand_like(probabilities(d).t()),
    "randn_like": lambda d: torch.randn_like(probabilities(d)),
    "randint_like": lambda d: torch.randint_like(probabilities(d), 10),
    "normal size": lambda d: torch.normal(1.0, 2.0, (5, 4), device=d),
    "normal tensor float": lambda d: torch.normal(probabilities(d), 2.0),
    "normal float tensor": lambda d: torch.normal(2.0, probabilities(d)),
    "normal tensors": lambda d: torch.normal(probabilities(d), probabilities(d)),
    "normal out": lambda d: torch.normal(
        probabilities(d), probabilities(d), out=torch.empty(5, 8, device=d)
    ),
    "bernoulli": lambda d: torch.bernoulli(probabilities(d)),
    "bernoulli p": lambda d: torch.bernoulli(probabilities(d), 0.3),
    "bernoulli out": lambda d: torch.bernoulli(probabilities(d), out=torch.empty(5, 8, device=d)),
    "bernoulli_ tensor": lambda d: torch.empty(5, 8, device=d).bernoulli_(probabilities(d)),
    "multinomial": lambda d: torch.multinomial(probabilities(d), 4),
    "multinomial again": lambda d: torch.multinomial(probabilities(d), 9, replacement=True),
    "poisson": lambda d: torch.poisson(probabilities(d) * 9),
    "binomial": lambda d: torch.binomial(torch.full((5, 8), 7.0, device=d), probabilities(d)),
    "gamma": lambda d: torch._standard_gamma(probabilities(d)),
    "dirichlet": lambda d: torch._sample_dirichlet(probabilities(d)),
    "normal_": filled("normal_", 1.0, 3.0),
    "uniform_": filled("uniform_", -1.0, 3.0),
    "bernoulli_": filled("bernoulli_", 0.4),
    "exponential_": filled("exponential_", 2.0),
    "random_": filled("random_"),
    "random_ to": filled("random_", 77),
    "random_ from": filled("random_", 7, 77),
    "geometric_": filled("geometric_", 0.3),
    "cauchy_": filled("cauchy_"),
    "log_normal_": filled("log_normal_"),
    "dropout": lambda d: F.dropout(probabilities(d), 0.3),
    "dropout in place": lambda d: F.dropout(probabilities(d), 0.3, inplace=True),
    "dropout1d": lambda d: F.dropout1d(probabilities(d), 0.3),
    "dropout2d": lambda d: F.dropout2d(probabilities(d).reshape(5, 2, 2, 2), 0.3),
    "alpha_dropout": lambda d: F.alpha_dropout(probabilities(d), 0.3, training=True),
    "feature_alpha_dropout": lambda d: F.feature_alpha_dropout(probabilities(d), 0.3, True),
    "native_dropout": lambda d: torch.native_dropout(probabilities(d), 0.3, True),
    "nn.Dropout": lambda d: nn.Dropout(0.7).to(d)(probabilities(d)),
    "rrelu": lambda d: F.rrelu(probabilities(d) - 0.5, training=True),
    "rrelu in place": lambda d: F.rrelu_(probabilities(d) - 0.5, training=True),
    "gumbel_softmax": lambda d: F.gumbel_softmax(probabilities(d), hard=True),
    "fractional_max_pool2d": lambda d: F.fractional_max_pool2d(
        probabilities(d).reshape(1, 1, 5, 8), 2, output_ratio=(0.5, 0.5)
    ),
    "sdpa": lambda d: F.scaled_dot_product_attention(
        *[probabilities(d).reshape(1, 1, 5, 8)] * 3, dropout_p=0.4
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_random_function_gives_the_cpus_numbers(name):
    expect_cpus_numbers(FUNCTIONS[name])


def initialised(name, *arguments, shape=(6, 5)):
    def run(device):
        return getattr(nn.init, name)(torch.empty(*shape, device=device), *arguments)

    return run


INITIALISERS = {
    "uniform_": (),
    "normal_": (),
    "trunc_normal_": (),
    "xavier_uniform_": (),
    "xavier_normal_": (),
    "kaiming_uniform_": (),
    "kaiming_normal_": (),
    "orthogonal_": (),
    "sparse_": (0.5,),
}


@pytest.mark.parametrize("name", INITIALISERS)
def test_weights_are_initialised_with_the_cpus_numbers(name):
    expect_cpus_numbers(initialised(name, *INITIALISERS[name]))


DISTRIBUTIONS = {
    "Normal": (0.0, 1.0),
    "Bernoulli": (0.3,),
    "Categorical": ([0.2, 0.3, 0.5],),
    "Gamma": (2.0, 1.0),
    "Beta": (2.0, 1.0),
    "Dirichlet": ([0.2, 0.3, 0.5],),
    "Poisson": (4.0,),
    "Exponential": (1.5,),
    "Cauchy": (0.0, 1.0),
    "Laplace": (0.0, 1.0),
    "StudentT": (3.0,),
    "Gumbel": (0.0, 1.0),
    "Geometric": (0.4,),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distributions_draw_the_cpus_numbers(name):
    def sampled(device):
        parameters = [torch.tensor(value, device=device) for value in DISTRIBUTIONS[name]]
        return getattr(torch.distributions, name)(*parameters).sample((6,))

    expect_cpus_numbers(sampled)


def moved(module: nn.Module, device) -> nn.Module:
    """The same weights on either device."""
    for parameter in module.parameters():
        with torch.no_grad():
            parameter.copy_(torch.linspace(-0.5, 0.5, parameter.numel()).view_as(parameter))
    return module.to(device)


RECURRENT = [
    (kind, options)
    for kind in (nn.LSTM, nn.GRU, nn.RNN)
    for options in ({}, {"bidirectional": True}, {"batch_first": True}, {"bias": False})
] + [(nn.LSTM, {"proj_size": 3})]


@pytest.mark.parametrize(("kind", "options"), RECURRENT)
def test_recurrent_layers_drop_what_the_cpus_drop(kind, options):
    def computed(device):
        layers = moved(kind(8, 4, num_layers=3, dropout=0.4, **options), device)
        inputs = probabilities(device).reshape(5, 1, 8).requires_grad_()
        seed_apart(3)
        output, state = layers(inputs)
        output.sum().backward()
        states = state if isinstance(state, tuple) else (state,)
        return output, *states, inputs.grad, *(p.grad for p in layers.parameters())

    expect_cpus_numbers(computed, rounded=True)


def test_attention_drops_what_the_cpus_drops():
    def computed(device):
        layer = moved(nn.MultiheadAttention(8, 2, dropout=0.4), device)
        x = probabilities(device)
        seed_apart(3)
        return layer(x, x, x, need_weights=True)[0], layer(x, x, x, need_weights=False)[0]

    expect_cpus_numbers(computed)


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_repeats_the_cpus_masks(reentrant):
    def computed(device):
        x = probabilities(device).requires_grad_()
        y = checkpoint(
            lambda t: F.dropout(F.dropout(t * 2, 0.3) * 3, 0.3), x, use_reentrant=reentrant
        )
        torch.rand(9, device=device)
        y.sum().backward()
        return y, x.grad

    expect_cpus_numbers(computed)


def test_hooks_and_backward_functions_draw_the_cpus_numbers():
    class Noisy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, gradient):
            return gradient + torch.rand_like(gradient)

    def computed(device):
        x = probabilities(device).requires_grad_()
        x.register_hook(lambda gradient: gradient + torch.randn(8, device=device))
        Noisy.apply(x).sum().backward()
        return x.grad

    expect_cpus_numbers(computed)


def test_a_scripted_function_draws_the_cpus_numbers():
    @torch.jit.script
    def noisy(x):
        return torch.nn.functional.dropout(x + torch.rand_like(x), 0.5, True)

    expect_cpus_numbers(lambda d: noisy(probabilities(d)))


def test_a_compiled_function_draws_the_cpus_numbers():
    def noisy(x):
        return x + torch.rand_like(x) + torch.randn(8, device=x.device)

    compiled = torch.compile(noisy, backend="eager", fullgraph=True)
    expect_cpus_numbers(lambda d: compiled(probabilities(d)))
    torch._dynamo.reset()


def test_vectorised_functions_draw_the_cpus_numbers():
    def computed(device):
        return torch.vmap(lambda x: x + torch.rand_like(x), randomness="different")(
            probabilities(device)
        )

    expect_cpus_numbers(computed)


def test_gradients_flow_through_sampling():
    def computed(device):
        rates = probabilities(device).requires_grad_()
        torch.distributions.Gamma(rates, 1.0).rsample().sum().backward()
        return rates.grad

    expect_cpus_numbers(computed)


@pytest.mark.parametrize("dispatch", ["auto", "always"])
def test_training_with_dropout_has_the_cpus_losses(dispatch):
    def losses(device):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(8, 16), nn.Dropout(0.2), nn.RReLU(), nn.Linear(16, 16), nn.AlphaDropout(0.1)
        ).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        data = torch.utils.data.TensorDataset(torch.randn(24, 8))
        loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)
        found = []
        for _ in range(3):
            for (batch,) in loader:
                optimizer.zero_grad()
                noise = torch.randn(batch.shape, device=device)
                loss = (model(batch.to(device) + noise) ** 2).mean()
                loss.backward()
                optimizer.step()
                found.append(loss.detach())
        return found

    expect_cpus_numbers(losses, dispatch=dispatch)


# --- generators ---------------------------------------------------------------------------------


def with_generator(device):
    generator = torch.Generator(device).manual_seed(0)
    results = [
        torch.rand(5, generator=generator, device=device),
        torch.rand(5, generator=generator).to(device),
        torch.randn(40, generator=generator, device=device),
        torch.randint(9, (4,), generator=generator, device=device),
        torch.randperm(9, generator=generator, device=device),
        torch.normal(0.0, 1.0, (4,), generator=generator, device=device),
        torch.bernoulli(probabilities(device), generator=generator),
        torch.multinomial(probabilities(device), 3, generator=generator),
        torch.poisson(probabilities(device), generator=generator),
        torch.empty(6, device=device).exponential_(generator=generator),
        nn.init.trunc_normal_(torch.empty(4, 4, device=device), generator=generator),
    ]
    state = generator.get_state()
    results.append(torch.rand(3, generator=generator, device=device))
    generator.set_state(state)
    results.append(torch.rand(3, generator=generator, device=device))
    results.append(torch.rand(3, generator=generator.clone_state(), device=device))
    return results


def test_a_generator_gives_the_numbers_of_the_cpus_generator():
    expect_cpus_numbers(with_generator)


def test_a_generators_device_is_that_of_its_tensors():
    with torchdevice_mode.redirect(rng="cpu"):
        generator = torch.Generator("cuda")
        assert generator.device == torch.device("cuda") == torch.rand(1, device="cuda").device
        assert torch.rand(2, generator=generator).device == generator.device
        assert generator.clone_state().device == generator.device
        assert torch.rand(2, generator=torch.default_generator).device == generator.device


def test_samplers_take_a_generator():
    def indices(device):
        generator = torch.Generator(device).manual_seed(0)
        first, second = torch.utils.data.random_split(range(9), [5, 4], generator=generator)
        loader = torch.utils.data.DataLoader(range(9), shuffle=True, generator=generator)
        return [torch.tensor([*first.indices, *second.indices, *(int(b) for b in loader)])]

    expect_cpus_numbers(indices)


def test_the_seed_of_cuda_seeds_the_cpus_generator():
    with torchdevice_mode.redirect(rng="cpu"):
        torch.cuda.manual_seed(3)
        first = torch.rand(4, device="cuda").tolist()
        assert torch.cuda.initial_seed() == torch.initial_seed() == 3
        torch.manual_seed(3)
        assert torch.rand(4, device="cuda").tolist() == first
        assert torch.equal(torch.cuda.get_rng_state(), torch.get_rng_state())
        with torch.random.fork_rng(devices=[0]):
            second = torch.rand(4, device="cuda").tolist()
        assert torch.rand(4, device="cuda").tolist() == second != first
    torch.manual_seed(3)
    assert torch.rand(4).tolist() == first


# --- where it holds -----------------------------------------------------------------------------


def test_it_holds_only_where_it_is_asked_for():
    def draw() -> list[float]:
        torch.default_generator.manual_seed(1)
        return torch.rand(4, device="cuda").tolist()

    if TARGET == "cpu":
        pytest.skip("the target's numbers are the CPU's")
    with torchdevice_mode.redirect():
        torch.cuda.manual_seed(2)
        others = draw()
        with torchdevice_mode.redirect(rng="cpu"):
            inside = draw()
            with torchdevice_mode.redirect(rng="target"):
                torch.cuda.manual_seed(2)
                assert draw() == others
            with torchdevice_mode.native():
                torch.mps.manual_seed(2)
                assert torch.rand(4, device=str(TARGET)).tolist() == others
            found = []
            worker = threading.Thread(target=lambda: found.append(draw()))
            worker.start()
            worker.join()
            assert found == [inside] != [others]
        torch.cuda.manual_seed(2)
        assert draw() == others
    assert cpu_random._registered == {}


def test_a_generator_made_on_the_target_draws_there():
    if TARGET == "cpu":
        pytest.skip("the target's generators are the CPU's")
    with torchdevice_mode.redirect():
        generator = torch.Generator("cuda").manual_seed(4)
        first = torch.rand(4, device="cuda", generator=generator).tolist()
        generator.manual_seed(4)
        with torchdevice_mode.redirect(rng="cpu"):
            assert torch.rand(4, device="cuda", generator=generator).tolist() == first


def test_kernels_are_there_only_while_somebody_needs_them():
    context = torchdevice_mode.redirect(rng="cpu")
    for _ in range(2):
        with context, torchdevice_mode.redirect(rng="cpu"), context:
            assert bool(cpu_random._registered) == (TARGET != "cpu")
        assert cpu_random._registered == {}
    with torchdevice_mode.redirect():
        assert cpu_random._registered == {}


def random_operators():
    """The operators of torch that draw and have a kernel for the CPU: others are made of them."""
    for schema in torch._C._jit_get_all_schemas():
        namespace, _, name = schema.name.partition("::")
        packet = getattr(torch.ops.aten, name, None) if namespace == "aten" else None
        if packet is None:
            continue
        overload = schema.overload_name or "default"
        operator = getattr(packet, overload, None)
        if not isinstance(operator, torch._ops.OpOverload):
            continue
        seeded = torch.Tag.nondeterministic_seeded in operator.tags
        if not seeded and not any(a.name == "generator" for a in schema.arguments):
            continue
        try:
            if torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), "CPU"):
                yield operator.name().removeprefix("aten::")
        except RuntimeError:
            continue  # known to TorchScript only


def test_every_operator_of_torch_that_draws_has_a_kernel():
    # Chooses a kernel, and computes attention in place of those of the CPU's that draw nothing.
    draw_nothing = {"_fused_sdp_choice", "_scaled_dot_product_flash_attention_for_cpu"}
    assert set(random_operators()) - draw_nothing == set(cpu_random.DRAWING)


def test_fused_dropout_is_computed_as_on_the_cpu():
    kernel = cpu_random._dropout(None)
    x = torch.linspace(-1, 1, 50)
    torch.manual_seed(0)
    expected = F.dropout(x, 0.3)
    with torchdevice_mode.redirect(rng="cpu"):
        torch.manual_seed(0)
        assert torch.equal(kernel(None, x, 0.3, True), expected)


# --- the setting --------------------------------------------------------------------------------


def test_the_environment_and_the_command_line_say_it(monkeypatch):
    program = "import torch; torch.cuda.manual_seed(1); print(torch.rand(1).cuda().item())"
    command = [sys.executable, "-m", "torchdevice", "run", "--quiet", "--rng", "cpu", "-c", program]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    torch.manual_seed(1)
    assert float(shown) == torch.rand(1).item()
    monkeypatch.setenv("TORCHDEVICE_RNG", "cpu")
    with torchdevice_mode.redirect():
        assert _active.drawn_on_cpu()
        with torchdevice_mode.redirect(rng="target"):
            assert not _active.drawn_on_cpu()


def test_another_value_is_refused():
    with pytest.raises(
        SettingsError, match="rng='gpu' is not a value that it can have: give 'target' or"
    ):
        torchdevice_mode.redirect(rng="gpu")

"""torch.cuda: random numbers come from the target's generator."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from torchdevice_mode import _log
from torchdevice_mode.errors import TorchDeviceWarning

pytestmark = pytest.mark.usefixtures("redirected")


def draw() -> list[float]:
    return torch.rand(4, device="cuda").tolist()


@pytest.mark.parametrize(
    "seed",
    [
        torch.manual_seed,
        lambda n: torch.cuda.manual_seed(n),
        lambda n: torch.cuda.manual_seed_all(n),
    ],
    ids=["torch.manual_seed", "manual_seed", "manual_seed_all"],
)
def test_the_same_seed_gives_the_same_numbers(seed):
    seed(7)
    first = draw()
    second = draw()
    seed(7)
    assert draw() == first != second


def test_the_seed_can_be_asked():
    torch.cuda.manual_seed(11)
    assert torch.cuda.initial_seed() == 11


@pytest.mark.parametrize("name", ["seed", "seed_all"])
def test_a_random_seed_gives_other_numbers(name):
    torch.cuda.manual_seed(7)
    first = draw()
    getattr(torch.cuda, name)()
    assert draw() != first


@pytest.mark.parametrize("device", ["cuda", "cuda:0", 0, torch.device("cpu")][:3])
def test_a_state_can_be_taken_and_set(device):
    state = torch.cuda.get_rng_state(device)
    assert state.dtype is torch.uint8
    first = draw()
    torch.cuda.set_rng_state(state, device)
    assert draw() == first


def test_all_states_can_be_taken_and_set():
    states = torch.cuda.get_rng_state_all()
    assert len(states) == 1
    first = draw()
    torch.cuda.set_rng_state_all(states)
    assert draw() == first


def test_a_state_that_the_program_moved_can_be_set():
    state = torch.cuda.get_rng_state()
    first = draw()
    torch.cuda.set_rng_state(state.to("cuda").cpu())
    assert draw() == first
    on_cpu = torch.get_rng_state()
    torch.set_rng_state(on_cpu.to("cuda").cpu())
    torch.random.set_rng_state(on_cpu.cuda())


def test_a_state_from_a_cuda_machine_is_made_a_seed(monkeypatch):
    monkeypatch.setattr(_log, "_said", {})  # as if it had not been said
    state = torch.arange(16, dtype=torch.uint8)
    with pytest.warns(TorchDeviceWarning, match="rng-state"):
        torch.cuda.set_rng_state(state)
    first = draw()
    torch.cuda.set_rng_state(state)
    assert draw() == first


def test_what_is_no_state_is_refused():
    with pytest.raises(TypeError, match="must be a torch"):
        torch.cuda.set_rng_state(torch.ones(16))


def test_default_generators_hold_the_targets_one():
    (generator,) = torch.cuda.default_generators
    assert isinstance(generator, torch.Generator)
    generator.manual_seed(3)
    first = draw()
    torch.cuda.manual_seed(3)
    assert draw() == first


FORKS = [
    {},
    {"devices": [0]},
    {"devices": ["cuda:0"]},
    {"devices": range(1), "device_type": "cuda"},
    {"device_type": "cuda"},
    {"devices": lambda: iter([0]), "device_type": "cuda"},
    {"device_type": "xpu"},
]


@pytest.mark.parametrize("options", FORKS, ids=range(len(FORKS)))
def test_a_forked_state_comes_back(options):
    options = {name: value() if callable(value) else value for name, value in options.items()}
    torch.manual_seed(5)
    with torch.random.fork_rng(**options):
        first = draw()
        on_cpu = torch.get_rng_state()
    assert torch.equal(torch.get_rng_state(), on_cpu) or draw_is_from_cpu()
    assert draw() == first


def draw_is_from_cpu() -> bool:
    return torch.device("cuda").type == "cpu"


def test_a_fork_may_be_left_out():
    torch.manual_seed(5)
    with torch.random.fork_rng(enabled=False):
        first = draw()
    assert draw() != first


def test_a_fork_comes_back_after_an_exception():
    torch.manual_seed(5)
    with pytest.raises(KeyError), torch.random.fork_rng():
        first = draw()
        raise KeyError
    assert draw() == first


def test_forking_for_no_device_forks_the_cpu_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        first = draw()
        torch.default_generator.seed()
    assert torch.equal(torch.get_rng_state(), before)
    assert (draw() == first) == draw_is_from_cpu()


# Calls, and what CUDA with one device raises.
BAD_CALLS = [
    (lambda: torch.cuda.get_rng_state(7), IndexError, "tuple index out of range"),
    (lambda: torch.cuda.get_rng_state("cudaa"), RuntimeError, "Expected one of cpu"),
    (lambda: torch.cuda.get_rng_state(None), AttributeError, "has no attribute 'index'"),
    (lambda: torch.cuda.get_rng_state(-1), RuntimeError, "must not be negative"),
    (lambda: torch.cuda.set_rng_state(torch.cuda.get_rng_state(), 7), IndexError, "out of range"),
    (lambda: torch.cuda.set_rng_state([1]), TypeError, "expected a torch.ByteTensor, but got list"),
    (lambda: torch.cuda.manual_seed("a"), ValueError, "invalid literal for int"),
    (lambda: torch.cuda.manual_seed_all(None), TypeError, "int\\(\\) argument must be"),
    (lambda: torch.cuda.manual_seed(2**64), ValueError, "Overflow"),
    (lambda: torch.cuda.seed(1), TypeError, "takes 0 positional arguments"),
    (lambda: torch.cuda.default_generators[1], IndexError, "tuple index out of range"),
    (lambda: torch.random.fork_rng(devices=[3]).__enter__(), IndexError, "out of range"),
]


@pytest.mark.parametrize(("call", "error", "text"), BAD_CALLS)
def test_a_bad_call_fails_as_on_cuda(call, error, text):
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("value", [3, 3.7, "3", True, -3, 2**63])
def test_a_seed_is_read_as_cuda_reads_it(value):
    torch.cuda.manual_seed(value)
    assert torch.cuda.initial_seed() == int(value) % 2**64


def test_torchs_own_seeds_reach_the_target():
    torch.manual_seed(9)
    assert torch.cuda.initial_seed() == torch.initial_seed() == 9
    seed = torch.seed()
    assert torch.cuda.initial_seed() == torch.initial_seed() == seed


def test_a_second_process_draws_the_same_numbers():
    program = "import torch; torch.manual_seed(4); print(torch.rand(3, device='cuda').tolist())"
    command = [sys.executable, "-m", "torchdevice", "run", "--quiet", "-c", program]
    first, second = (
        subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in "12"
    )
    assert first == second != ""


def test_checkpointing_repeats_dropout():
    from torch.utils.checkpoint import checkpoint

    x = torch.ones(64, device="cuda", requires_grad=True)
    y = checkpoint(torch.nn.functional.dropout, x, 0.5, use_reentrant=False)
    y.sum().backward()
    assert torch.equal(x.grad, y)

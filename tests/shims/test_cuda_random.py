"""torch.cuda: random numbers come from the target's generator."""

from __future__ import annotations

import pytest
import torch

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


def test_a_state_from_a_cuda_machine_is_made_a_seed():
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


@pytest.mark.parametrize("options", [{}, {"devices": [0]}, {"devices": [0], "device_type": "cuda"}])
def test_a_forked_state_comes_back(options):
    torch.manual_seed(5)
    with torch.random.fork_rng(**options):
        first = draw()
    assert draw() == first


def test_checkpointing_repeats_dropout():
    from torch.utils.checkpoint import checkpoint

    x = torch.ones(64, device="cuda", requires_grad=True)
    y = checkpoint(torch.nn.functional.dropout, x, 0.5, use_reentrant=False)
    y.sum().backward()
    assert torch.equal(x.grad, y)

"""`torch.Generator("cuda")`: a generator of the target with all that CUDA's have."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler, WeightedRandomSampler, random_split

import torchdevice_mode
from torchdevice_mode import _log
from torchdevice_mode.errors import TorchDeviceWarning

pytestmark = pytest.mark.usefixtures("redirected")


def make(seed: int = 3) -> torch.Generator:
    return torch.Generator("cuda").manual_seed(seed)


def draw(generator: torch.Generator) -> list[float]:
    return torch.rand(5, device="cuda", generator=generator).tolist()


def test_its_device_is_that_of_tensors(target):
    generator = torch.Generator("cuda")
    assert generator.device == torch.zeros(1, device="cuda").device == torch.device("cuda")
    assert torch.Generator(device="cuda:0").device == torch.Generator(0).device == target
    assert torch.Generator().device == torch.zeros(1).device


def test_it_is_what_it_is_called():
    generator = make()
    assert type(generator) is torch.Generator
    for kind in (torch.Generator, torch._C.Generator):
        assert isinstance(generator, kind)
        assert isinstance(torch.default_generator, kind)
        assert issubclass(torch.Generator, kind)
    assert not isinstance(3, torch.Generator)
    assert repr(generator).startswith("<torch.")


def through_torch_save(generator):
    file = io.BytesIO()
    torch.save(generator, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "pickle": lambda g: pickle.loads(pickle.dumps(g)),
    "torch.save": through_torch_save,
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "clone_state": lambda g: g.clone_state(),
    "in a dict": lambda g: copy.deepcopy({"g": g, "same": g})["g"],
}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_goes_on_as_the_original_and_by_itself(way):
    generator = make()
    draw(generator)
    copied = COPIES[way](generator)
    assert type(copied) is torch.Generator
    assert copied is not generator
    assert copied.device == generator.device
    assert copied.initial_seed() == 3
    first = draw(generator)
    assert draw(copied) == first
    assert draw(generator) == draw(copied) != first


def test_what_is_pickled_here_can_be_read_by_plain_torch():
    generator = make()
    data = pickle.dumps(generator)
    with torchdevice_mode.native():
        plain = pickle.loads(data)
        assert type(plain) is torch._C.Generator or plain.device.type != "cuda"
        first = torch.rand(5, device=plain.device, generator=plain).tolist()
    assert draw(generator) == first


def test_a_state_can_be_taken_and_set():
    generator = make()
    state = generator.get_state()
    assert state.dtype is torch.uint8
    assert state.device == torch._C.Generator("cpu").get_state().device
    first = draw(generator)
    for moved in (state, state.cuda(), state.to("cuda").cpu(), state.to("cuda:0").clone()):
        assert generator.set_state(moved) is generator
        assert draw(generator) == first


def test_seeds_can_be_set_and_asked():
    generator = torch.Generator("cuda")
    assert generator.manual_seed(5) is generator
    assert generator.initial_seed() == 5
    first = draw(generator)
    seed = generator.seed()
    assert seed == generator.initial_seed() != 5
    assert draw(generator) != first
    assert generator.manual_seed(-1).initial_seed() == 2**64 - 1


def test_an_offset_can_be_set_and_asked():
    generator = make()
    assert generator.get_offset() == 0
    first = draw(generator)
    assert generator.set_offset(8) is generator
    assert generator.get_offset() == 8
    assert generator.initial_seed() == 3
    other = draw(generator)
    generator.set_offset(8)
    again = draw(generator)
    if generator.device.type == "cpu":
        assert again == other != first
        assert draw(generator.set_offset(0)) == first
    assert generator.manual_seed(3).get_offset() in (0, 8)


# What generators of other kinds save: CUDA a seed and an offset, Metal counters before a seed.
FOREIGN = {
    "cuda": (42).to_bytes(8, "little") + bytes(8),
    "mps": bytes(28) + (42).to_bytes(8, "little"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_state_of_another_kind_of_generator_gives_its_seed(kind, monkeypatch):
    with torchdevice_mode.native():
        state = torch.frombuffer(bytearray(FOREIGN[kind]), dtype=torch.uint8)
    for set_state, asked in (
        (make(1).set_state, None),
        (torch.cuda.set_rng_state, torch.cuda.initial_seed),
        (torch.set_rng_state, torch.initial_seed),
    ):
        monkeypatch.setattr(_log, "_said", {})  # as if it had not been said
        with pytest.warns(TorchDeviceWarning, match="rng-state"):
            set_state(state)
        assert asked is None or asked() == 42
    generator = make(1).set_state(state)
    assert draw(generator) == draw(make(42))


@pytest.mark.parametrize(
    ("state", "error"),
    [([1, 2], TypeError), (torch.ones(16), TypeError), (torch.ones(3).byte(), RuntimeError)],
    ids=["list", "floats", "too few"],
)
def test_what_is_no_state_is_refused(state, error):
    with pytest.raises(error):
        make().set_state(state)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [(("cudaa",), RuntimeError), ((3.5,), TypeError), (("cuda", 1), TypeError)],
)
def test_a_bad_device_fails_as_in_torch(arguments, error):
    with pytest.raises(error):
        torch.Generator(*arguments)
    with pytest.raises(TypeError):
        torch.Generator(devices="cuda")


def test_everything_takes_it(target):
    generator = make()
    p = torch.full((4, 4), 0.5, device="cuda")
    for tensor in (
        torch.rand(3, generator=generator),
        torch.randn(3, generator=generator, device="cuda"),
        torch.randint(5, (3,), generator=generator),
        torch.randperm(5, generator=generator),
        torch.normal(0.0, 1.0, (3,), generator=generator),
        torch.normal(p, p, generator=generator),
        torch.bernoulli(p, generator=generator),
        torch.multinomial(p, 2, generator=generator),
        p.clone().bernoulli_(0.5, generator=generator),
        p.clone().exponential_(generator=generator),
        torch.nn.init.xavier_uniform_(p.clone(), generator=generator),
        torch.nn.init.orthogonal_(p.clone(), generator=generator),
    ):
        assert tensor.device == target


def test_samplers_and_loaders_take_it():
    data = list(range(8))

    def run():
        generator = make()
        parts = random_split(data, [5, 3], generator=generator)
        loader = DataLoader(data, 4, shuffle=True, generator=generator)
        return (
            [list(part.indices) for part in parts],
            [batch.tolist() for batch in loader],
            list(RandomSampler(data, generator=generator)),
            list(RandomSampler(data, generator=generator, replacement=True)),
            list(WeightedRandomSampler([0.1, 0.9], 6, generator=generator)),
        )

    assert run() == run()
    assert sorted(i for batch in run()[1] for i in batch) == data


def test_a_subclass_of_it_can_be_made(target):
    class Named(torch.Generator):
        name = "mine"

    generator = Named("cuda").manual_seed(3)
    assert (generator.name, generator.device) == ("mine", target)
    assert type(generator) is Named
    assert isinstance(generator, torch.Generator)
    assert not isinstance(torch.Generator(), Named)
    assert draw(generator) == draw(make())


def test_it_does_not_stop_compilation():
    generator = make()

    def noisy(x):
        return x + torch.rand(5, device="cuda", generator=generator)

    first = torch.compile(noisy, backend="eager")(torch.zeros(5, device="cuda")).tolist()
    assert first == draw(make())
    torch._dynamo.reset()


def test_outside_of_redirection_it_is_plain():
    stand_in = torch.Generator
    generator = make()
    with torchdevice_mode.native():
        assert type(stand_in("cpu")) is torch._C.Generator
        assert generator.get_state().numel() > 0
        assert isinstance(generator, torch._C.Generator)

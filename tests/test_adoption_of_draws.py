"""What belongs to the CPU, or to a generator, in calls on accelerator tensors.

Lengths and places to split at are wanted on the CPU; numbers are drawn where their generator is.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import torchdevice_mode


def from_numpy(*values, dtype=np.float32):
    """A CPU tensor under every policy."""
    return torch.from_numpy(np.array(values, dtype=dtype))


# --- what torch takes on the CPU only -------------------------------------------------------

LENGTHS = {
    "without a device": lambda: torch.tensor([3, 2]),
    "called to the CPU": lambda: torch.tensor([3, 2], device="cuda").cpu(),
    "on the target": lambda: torch.tensor([3, 2], device="cuda"),
    "from NumPy": lambda: from_numpy(3, 2, dtype=int),
    "a list": lambda: [3, 2],
}


@pytest.mark.parametrize("enforce_sorted", [True, False])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_sequences_are_packed_by_lengths_from_anywhere(redirected, target, lengths, enforce_sorted):
    padded = torch.arange(6.0, device="cuda").reshape(2, 3, 1)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        padded, lengths(), batch_first=True, enforce_sorted=enforce_sorted
    )
    assert packed.data.device == target
    assert packed.is_cuda and packed.cuda().data.device == target
    assert packed.data.flatten().tolist() == [0, 3, 1, 4, 2]
    output, _ = torch.nn.GRU(1, 2, batch_first=True).cuda()(packed)
    unpacked, sizes = torch.nn.utils.rnn.pad_packed_sequence(output, batch_first=True)
    assert (unpacked.shape, sizes.tolist()) == ((2, 3, 2), [3, 2])


@pytest.mark.parametrize("places", [torch.tensor, lambda v: torch.tensor(v, device="cuda")])
def test_a_tensor_is_split_at_places_from_anywhere(redirected, target, places):
    parts = torch.ones(4, device="cuda").tensor_split(places([1, 3]))
    assert [part.tolist() for part in parts] == [[1], [1, 1], [1]]
    assert parts[0].device == target


# --- generators -----------------------------------------------------------------------------

DRAWS = {
    "random_": lambda x, g: x.random_(100, generator=g),
    "normal_": lambda x, g: x.normal_(generator=g),
    "uniform_": lambda x, g: x.uniform_(2, 3, generator=g),
    "bernoulli_": lambda x, g: x.bernoulli_(0.5, generator=g),
    "randn out": lambda x, g: torch.randn(4, generator=g, out=x),
    "a view": lambda x, g: x[1:].exponential_(generator=g),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_cpu_tensor_is_filled_by_a_cuda_generator(redirected, target, draw):
    stray, placed = from_numpy(0, 0, 0, 0), torch.zeros(4, device="cuda")
    result = draw(stray, torch.Generator(device="cuda").manual_seed(3))
    draw(placed, torch.Generator(device="cuda").manual_seed(3))
    assert result.device.type == stray.device.type == "cpu"
    assert stray.any()
    assert stray.tolist() == placed.tolist()


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_the_cpus_own_generator_fills_what_was_made_for_the_cpu(redirected, target, draw):
    placed, plain = torch.zeros(4), from_numpy(0, 0, 0, 0)
    torch.default_generator.manual_seed(3)
    draw(placed, torch.default_generator)
    torch.default_generator.manual_seed(3)
    with torchdevice_mode.native():
        draw(plain, torch.default_generator)
    assert placed.device == target
    assert placed.tolist() == plain.tolist()


def test_a_filled_tensor_is_the_same_object(redirected):
    stray = from_numpy(0, 0)
    assert stray.normal_(generator=torch.Generator("cuda")) is stray


@pytest.mark.parametrize("draw", [torch.bernoulli, lambda x, **k: torch.multinomial(x, 4, **k)])
def test_draws_from_a_cpu_tensor_by_a_cuda_generator_repeat(redirected, draw):
    def once():
        chances = from_numpy(0.5, 0.5, 0.5, 0.5)
        return draw(chances, generator=torch.Generator("cuda").manual_seed(0)).tolist()

    assert set(once()) <= {0, 1, 2, 3}
    assert once() == once()


SAMPLERS = {
    "shuffle": lambda data, g: {"shuffle": True, "generator": g},
    "random": lambda data, g: {"sampler": torch.utils.data.RandomSampler(data, generator=g)},
    "with replacement": lambda data, g: {
        "sampler": torch.utils.data.RandomSampler(data, replacement=True, generator=g)
    },
    "weighted": lambda data, g: {
        "sampler": torch.utils.data.WeightedRandomSampler([1] * 8, 8, generator=g)
    },
    "subset": lambda data, g: {
        "sampler": torch.utils.data.SubsetRandomSampler(range(8), generator=g)
    },
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("device", ["cuda", None])
def test_a_data_loader_shuffles_by_a_cuda_generator(redirected, sampler, workers, device):
    data = torch.utils.data.TensorDataset(torch.arange(8))

    def order():
        generator = torch.Generator(device).manual_seed(5) if device else torch.Generator()
        generator.manual_seed(5)
        loader = torch.utils.data.DataLoader(data, num_workers=workers, **sampler(data, generator))
        return [int(x) for (x,) in loader]

    assert order() == order()
    assert set(order()) <= set(range(8))

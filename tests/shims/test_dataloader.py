"""DataLoader under redirection: workers stay on the CPU, whatever the data set holds."""

from __future__ import annotations

import warnings
from queue import Empty, SimpleQueue

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, random_split

from torchdevice_mode import _active
from torchdevice_mode._shims.dataloader import _WhenIdle, to_host


class NamesCuda(Dataset):
    """A data set whose items are made by code that names CUDA."""

    def __init__(self):
        self.table = torch.arange(6.0)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return self.table[index] + torch.zeros(1, device="cuda")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_items_arrive_in_order_and_move_to_the_target(redirected, target, workers, method):
    if not workers and method == "spawn":
        pytest.skip("no worker to start")
    context = method if workers else None
    loader = DataLoader(
        NamesCuda(), batch_size=2, num_workers=workers, multiprocessing_context=context
    )
    batches = [batch.cuda() for batch in loader]
    assert {batch.device for batch in batches} == {target}
    assert torch.cat(batches).flatten().tolist() == [0, 1, 2, 3, 4, 5]


class NamesNoDevice(Dataset):
    """A data set as most are: it builds its items and lets torch decide where."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.tensor([float(index)])


class NamesNoDeviceEither(IterableDataset):
    def __iter__(self):
        return (torch.tensor([float(i)]) for i in range(4))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("data", [NamesNoDevice, NamesNoDeviceEither])
def test_items_that_name_no_device_are_built_on_the_cpu(redirected, data, workers):
    batches = list(DataLoader(data(), batch_size=2, num_workers=workers))
    assert {batch.device.type for batch in batches} == {"cpu"}
    assert torch.cat(batches).flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("workers", [0, 2])
def test_tensors_made_under_redirection_are_handed_to_workers_on_the_cpu(redirected, workers):
    data = TensorDataset(torch.arange(8.0), torch.arange(8))
    loader = DataLoader(data, batch_size=4, num_workers=workers, persistent_workers=workers > 0)
    for _ in range(2):
        values = [x.tolist() for x, _ in loader]
        assert values == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert data.tensors[0].device == torch.zeros(1).device


def test_pinning_is_dropped_without_a_warning(redirected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader = DataLoader(TensorDataset(torch.arange(4.0)), pin_memory=True)
        assert [float(x) for (x,) in loader] == [0, 1, 2, 3]
    assert loader.pin_memory


def test_shuffling_and_splitting_by_a_generator(redirected):
    generator = torch.Generator().manual_seed(0)
    first, second = random_split(range(10), [7, 3], generator=generator)
    loader = DataLoader(first, shuffle=True, generator=torch.Generator().manual_seed(1))
    assert sorted(int(x) for x in loader) == sorted(first.indices)
    assert len(second) == 3


def test_only_what_holds_accelerator_tensors_is_copied(redirected):
    with torch.device("cpu"):
        pass
    held = {"a": [torch.ones(1, device="cuda")], "b": "text"}
    plain = {"c": [1, 2, 3]}
    with torch._C.DisableTorchFunction():
        moved = to_host((held, plain))
        assert moved[0]["a"][0].device.type == "cpu"
    assert moved[1] is plain


def test_a_worker_tells_what_it_counted_while_it_waits_for_work(redirected, monkeypatch):
    told = []
    monkeypatch.setattr(_active.current(), "tell_parent", lambda: told.append(1))
    queue = _WhenIdle(SimpleQueue())
    queue.put("task")
    assert queue.get() == "task"
    assert told == []
    with pytest.raises(Empty):
        queue.get(timeout=0.01)
    assert told == [1]

"""torch.cuda: memory figures move with what is allocated."""

from __future__ import annotations

import gc

import pytest
import torch

pytestmark = pytest.mark.usefixtures("redirected")

MIB = 1024 * 1024
SIZE = 64 * MIB
SLACK = 8 * MIB


def allocate(size: int = SIZE) -> torch.Tensor:
    return torch.ones(size // 4, device="cuda")


def test_what_is_allocated_rises_and_falls_with_a_tensor():
    gc.collect()
    before = torch.cuda.memory_allocated()
    x = allocate()
    during = torch.cuda.memory_allocated()
    del x
    after = torch.cuda.memory_allocated()
    assert abs(during - before - SIZE) < SLACK
    assert abs(after - before) < SLACK


def test_a_peak_between_two_queries_is_seen():
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    x = allocate()
    del x
    assert abs(torch.cuda.max_memory_allocated() - before - SIZE) < SLACK
    assert torch.cuda.max_memory_reserved() >= torch.cuda.max_memory_allocated()


def test_resetting_the_peak_begins_anew():
    x = allocate()
    del x
    torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    assert torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated() < SLACK
    y = allocate(SIZE // 4)
    del y
    peak = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
    assert abs(peak - SIZE // 4) < SLACK


def test_what_is_reserved_is_at_least_what_is_allocated():
    x = allocate()
    assert torch.cuda.memory_reserved() >= torch.cuda.memory_allocated() >= x.nbytes - SLACK


def test_emptying_the_cache_keeps_what_is_in_use():
    x = allocate()
    torch.cuda.empty_cache()
    assert x.sum().item() == x.numel()


def test_free_memory_is_part_of_the_total():
    free, total = torch.cuda.mem_get_info()
    assert 0 < free <= total
    assert total == torch.cuda.get_device_properties(0).total_memory


def test_statistics_have_cudas_keys():
    stats = torch.cuda.memory_stats()
    for name in ("allocated_bytes", "reserved_bytes", "active_bytes", "requested_bytes",
                 "allocation", "segment", "active", "inactive_split"):  # fmt: skip
        for pool in ("all", "large_pool", "small_pool"):
            for metric in ("current", "peak", "allocated", "freed"):
                assert stats[f"{name}.{pool}.{metric}"] >= 0
    assert list(stats) == sorted(stats)
    assert {"num_ooms", "num_alloc_retries", "num_device_alloc", "max_split_size"} <= set(stats)


@pytest.mark.parametrize("name", ["allocated_bytes.all", "reserved_bytes.all"])
def test_statistics_add_up(name):
    x = allocate()
    stats = torch.cuda.memory_stats()
    current, peak = stats[f"{name}.current"], stats[f"{name}.peak"]
    assert x.nbytes - SLACK <= current <= peak
    assert stats[f"{name}.allocated"] - stats[f"{name}.freed"] == current


def test_nested_statistics_are_the_flat_ones():
    nested = torch.cuda.memory_stats_as_nested_dict()
    assert set(nested["allocated_bytes"]["all"]) == {"current", "peak", "allocated", "freed"}


def test_the_summary_has_torchs_layout():
    lines = torch.cuda.memory_summary().splitlines()
    assert "PyTorch CUDA memory summary, device ID 0" in lines[1]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    ("fraction", "error"), [(-1.0, ValueError), (1.5, ValueError), (1, TypeError)]
)
def test_a_bad_fraction_is_refused_as_on_cuda(fraction, error):
    with pytest.raises(error, match="Invalid"):
        torch.cuda.set_per_process_memory_fraction(fraction)


def test_a_fraction_is_remembered():
    torch.cuda.set_per_process_memory_fraction(0.5)
    assert torch.cuda.get_per_process_memory_fraction() == 0.5
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("name", ["memory_allocated", "max_memory_allocated", "mem_get_info",
                                  "reset_peak_memory_stats", "memory_stats"])  # fmt: skip
def test_an_absent_device_is_refused(name):
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        getattr(torch.cuda, name)(7)


@pytest.mark.parametrize("name", ["reset_max_memory_allocated", "reset_max_memory_cached"])
def test_old_resets_warn_at_the_callers_line(name):
    with pytest.warns(FutureWarning, match="now calls") as caught:
        getattr(torch.cuda, name)()
    assert caught[0].filename == __file__


def test_host_statistics_are_there_and_empty():
    stats = torch.cuda.host_memory_stats()
    assert stats["num_host_alloc"] == 0 and stats["allocated_bytes.current"] == 0
    torch.cuda.reset_peak_host_memory_stats()
    torch.cuda.reset_accumulated_host_memory_stats()


def test_recording_a_history_is_harmless():
    torch.cuda.memory._record_memory_history(max_entries=10)
    assert torch.cuda.memory_snapshot() == []

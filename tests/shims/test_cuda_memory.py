"""torch.cuda: memory figures move with what is allocated."""

from __future__ import annotations

import gc
import pickle
import threading

import pytest
import torch
from torch.cuda import _memory_viz

from torchdevice_mode import simulate
from torchdevice_mode._log import forget_warnings
from torchdevice_mode._shims.cuda import _figures
from torchdevice_mode.errors import TorchDeviceWarning

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


METRICS = ["current", "peak", "allocated", "freed"]
POOLED = ["allocation", "segment", "active", "inactive_split", "allocated_bytes", "reserved_bytes",
          "active_bytes", "inactive_split_bytes", "requested_bytes"]  # fmt: skip
KEYS = {
    *(f"{n}.{p}.{m}" for n in POOLED for p in ("all", "large_pool", "small_pool") for m in METRICS),
    *(f"{n}.{m}" for n in ("oversize_allocations", "oversize_segments") for m in METRICS),
    "num_alloc_retries", "num_ooms", "num_sync_all_streams", "num_device_alloc", "num_device_free",
    "num_oom_rejections", "max_split_size",
}  # fmt: skip
"""What torch's C++ puts into CUDA's statistics."""


def test_statistics_have_cudas_keys_in_order():
    stats = torch.cuda.memory_stats()
    assert set(stats) == KEYS
    assert list(stats) == sorted(stats)
    assert all(type(value) is int for value in stats.values())
    assert all(value >= 0 for key, value in stats.items() if key != "max_split_size")


@pytest.mark.parametrize("name", ["allocated_bytes.all", "reserved_bytes.all"])
def test_statistics_add_up(name):
    def sums():
        stats = torch.cuda.memory_stats()
        assert stats[f"{name}.current"] <= stats[f"{name}.peak"]
        return stats[f"{name}.current"], stats[f"{name}.allocated"] - stats[f"{name}.freed"]

    held, total = sums()
    x = allocate()
    grown, grown_total = sums()
    assert grown_total - total == grown - held
    assert grown >= x.nbytes - SLACK


def test_what_was_ever_allocated_does_not_fall():
    def total():
        return torch.cuda.memory_stats()["allocated_bytes.all.allocated"]

    totals = []
    for reset in (False, True, False):
        x = allocate()
        totals.append(total())
        del x
        if reset:
            torch.cuda.reset_peak_memory_stats()
        totals.append(total())
    assert totals == sorted(totals)
    torch.cuda.reset_accumulated_memory_stats()
    assert total() < totals[-1]


def test_nested_statistics_are_the_flat_ones():
    nested = torch.cuda.memory_stats_as_nested_dict()
    assert set(nested["allocated_bytes"]["all"]) == set(METRICS)
    assert nested["reserved_bytes_by_private_pools"] == {}
    assert set(nested) == {key.partition(".")[0] for key in KEYS} | {
        "reserved_bytes_by_private_pools"
    }


@pytest.mark.parametrize(("abbreviated", "rows"), [(False, 29), (True, 11)])
@pytest.mark.parametrize("device", [None, 0, "cuda", torch.device("cuda", 0)])
def test_the_summary_has_torchs_layout(device, abbreviated, rows):
    lines = torch.cuda.memory_summary(device, abbreviated=abbreviated).splitlines()
    assert "PyTorch CUDA memory summary, device ID 0" in lines[1]
    assert "CUDA OOMs: " in lines[3]
    assert len({len(line) for line in lines}) == 1
    assert sum(line.count("|") == 6 for line in lines) == rows + 1


# --- limits ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fraction", "error", "text"),
    [
        (-1.0, ValueError, r"Invalid fraction value: -1\.0\. Allowed range: 0~1"),
        (2.0, ValueError, r"Invalid fraction value: 2\.0\. Allowed range: 0~1"),
        (1, TypeError, "Invalid type for fraction argument, must be `float`"),
        ("0.5", TypeError, "Invalid type for fraction argument, must be `float`"),
    ],
)
def test_a_bad_fraction_is_refused_as_on_cuda(fraction, error, text):
    before = torch.cuda.get_per_process_memory_fraction()
    with pytest.raises(error, match=text):
        torch.cuda.set_per_process_memory_fraction(fraction)
    assert torch.cuda.get_per_process_memory_fraction() == before


@pytest.fixture
def whole_memory_again():
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.filterwarnings("ignore::torchdevice_mode.errors.TorchDeviceWarning")
def test_a_fraction_is_remembered(redirected, whole_memory_again):
    torch.cuda.set_per_process_memory_fraction(0.5, device=0)
    assert torch.cuda.get_per_process_memory_fraction() == 0.5


@pytest.mark.simulated_mps
@pytest.mark.parametrize("fraction", [0.5, 0.0])
def test_a_fraction_takes_effect(redirected, whole_memory_again, fraction):
    total = torch.cuda.memory_allocated() + 2 * SIZE
    with simulate.memory_limit(total):
        torch.cuda.set_per_process_memory_fraction(fraction)
        with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory") as caught:
            allocate(int(2 * SIZE * 0.75))
        assert "MPS backend out of memory (MPS allocated: " in str(caught.value.__cause__)
        torch.cuda.set_per_process_memory_fraction(1.0)
        allocate(int(2 * SIZE * 0.75))


@pytest.mark.skipif(simulate.is_loaded(), reason="the simulated device has a limit")
def test_a_fraction_without_effect_is_said_once(redirected, whole_memory_again):
    forget_warnings()
    with pytest.warns(TorchDeviceWarning, match="limits nothing") as caught:
        torch.cuda.set_per_process_memory_fraction(0.5)
        torch.cuda.set_per_process_memory_fraction(0.25)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, "Invalid device argument 7") for name in (
            "memory_allocated", "max_memory_allocated", "memory_reserved", "memory_stats",
            "reset_peak_memory_stats", "reset_accumulated_memory_stats", "memory_summary",
        )),
        ("mem_get_info", "invalid device ordinal"),
        ("get_per_process_memory_fraction", "Allocator not initialized for device 7"),
        ("list_gpu_processes", "device 7 is not visible"),
    ],
)  # fmt: skip
def test_an_absent_device_is_refused(name, text):
    with pytest.raises(RuntimeError, match=text):
        getattr(torch.cuda, name)(7)


@pytest.mark.parametrize(
    ("old", "new"),
    [("memory_cached", "memory_reserved"), ("max_memory_cached", "max_memory_reserved")],
)
def test_old_names_warn_at_the_callers_line(old, new):
    with pytest.warns(FutureWarning, match=f"`torch.cuda.{old}` has been renamed") as caught:
        found = getattr(torch.cuda, old)()
    assert type(found) is type(getattr(torch.cuda, new)()) is int
    assert caught[0].filename == __file__


@pytest.mark.parametrize("name", ["reset_max_memory_allocated", "reset_max_memory_cached"])
def test_old_resets_warn_at_the_callers_line(name):
    with pytest.warns(FutureWarning, match="now calls") as caught:
        getattr(torch.cuda, name)()
    assert caught[0].filename == __file__


def test_host_statistics_are_there_and_empty():
    stats = torch.cuda.host_memory_stats()
    assert stats["num_host_alloc"] == 0 and stats["allocated_bytes.current"] == 0
    nested = torch.cuda.host_memory_stats_as_nested_dict()
    assert {key.partition(".")[0] for key in stats} == set(nested)
    assert set(nested["host_alloc_time"]) == {"total", "max", "min", "count", "avg"}
    torch.cuda.reset_peak_host_memory_stats()
    torch.cuda.reset_accumulated_host_memory_stats()


# --- how exact the figures are --------------------------------------------------------------


def held_by(make):
    """What memory_allocated says that something takes, and that it takes afterwards."""
    gc.collect()
    before = torch.cuda.memory_allocated()
    thing = make()
    during = torch.cuda.memory_allocated()
    del thing
    gc.collect()
    return during - before, torch.cuda.memory_allocated() - before


def in_threads(make, count=4):
    made = []
    threads = [threading.Thread(target=lambda: made.append(make())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return made


def cycle():
    holder = [torch.ones(SIZE // 4, device="cuda")]
    holder.append(holder)
    return holder


MADE = {
    "one": (allocate, SIZE),
    "small ones": (lambda: [torch.ones(2560, device="cuda") for _ in range(2000)], 2000 * 10240),
    "untouched": (lambda: torch.empty(SIZE // 4, device="cuda"), SIZE),
    "half precision": (lambda: torch.ones(SIZE // 4, dtype=torch.half, device="cuda"), SIZE // 2),
    "a view": (lambda: allocate()[:10], SIZE),
    "a storage": (lambda: allocate().untyped_storage(), SIZE),
    "views of one": (lambda: list(allocate().split(2**20)), SIZE),
    "expanded": (lambda: torch.ones(1, device="cuda").expand(SIZE), 0),
    "threads'": (lambda: in_threads(allocate), 4 * SIZE),
    "a cycle": (cycle, SIZE),
    "a graph": (lambda: (allocate().requires_grad_() * 2).exp(), 2 * SIZE),
    "parameters and gradients": (lambda: backward(torch.nn.Linear(2048, 2048).cuda()), 2**25),
}


def backward(module):
    module(torch.ones(1, 2048, device="cuda")).sum().backward()
    return module


@pytest.mark.parametrize(("make", "size"), MADE.values(), ids=MADE)
def test_what_is_allocated_is_what_tensors_take(make, size):
    during, after = held_by(make)
    exact = 2**16 if simulate.is_loaded() else SLACK
    assert abs(during - size) <= exact
    assert abs(after) <= exact


PEAKS = {
    "a temporary of an operator": lambda x: torch.logsumexp(x.view(4096, -1), 1).sum(),
    "temporaries of an expression": lambda x: ((x * 2) + (x * 3)).sum(),
    "a backward pass": lambda x: (x.detach().requires_grad_() * 2).exp().sum().backward(),
}


@pytest.mark.parametrize("work", PEAKS.values(), ids=PEAKS)
def test_a_peak_within_a_call_is_seen(work):
    x = allocate()
    work(x)
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work(x)
    assert torch.cuda.max_memory_allocated() - before >= SIZE - SLACK


@pytest.mark.simulated_mps
def test_without_the_targets_own_peaks_a_backward_pass_is_a_moment_to_look(monkeypatch):
    def absent(*_):
        raise RuntimeError("no statistics")

    for name in ("memory_stats", "reset_peak_memory_stats", "reset_accumulated_memory_stats"):
        monkeypatch.setattr(torch.accelerator, name, absent)
    _figures.figures.cache_clear()
    try:
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss = (allocate().requires_grad_() * 2).exp().sum()
        loss.backward()
        del loss
        assert torch.cuda.max_memory_allocated() - before >= 2 * SIZE
    finally:
        _figures.figures.cache_clear()


# --- the allocator --------------------------------------------------------------------------


def test_raw_memory_is_held_until_it_is_deleted():
    before = torch.cuda.memory_allocated()
    pointer = torch.cuda.caching_allocator_alloc(SIZE, device=0, stream=torch.cuda.Stream())
    assert pointer > 0
    assert abs(torch.cuda.memory_allocated() - before - SIZE) < SLACK
    torch.cuda.caching_allocator_delete(pointer)
    assert abs(torch.cuda.memory_allocated() - before) < SLACK
    with pytest.raises(RuntimeError, match=f"invalid device pointer: {pointer:#x}"):
        torch.cuda.caching_allocator_delete(pointer)
    with pytest.raises(TypeError, match="Invalid type for stream argument"):
        torch.cuda.caching_allocator_alloc(8, stream="default")


def test_a_pool_is_a_name():
    pool, other = torch.cuda.MemPool(), torch.cuda.MemPool(use_on_oom=True)
    assert isinstance(pool, torch.cuda.MemPool)
    assert pool.id != other.id and pool.id[0] == 0
    with torch.cuda.use_mem_pool(pool):
        assert torch.ones(8, device="cuda").sum().item() == 8
        assert pool.use_count() == 2
    assert pool.use_count() == 1
    assert pool.snapshot() == []


@pytest.mark.parametrize(("pool", "device", "error"), [(None, 0, AttributeError),
                                                       ("pool", 7, RuntimeError)])  # fmt: skip
def test_what_is_no_pool_or_no_device_is_refused(pool, device, error):
    with pytest.raises(error), torch.cuda.use_mem_pool(pool and torch.cuda.MemPool(), device):
        pass


def test_a_snapshot_lists_what_is_held(tmp_path):
    torch.cuda.memory._record_memory_history(max_entries=10)
    x = allocate()
    segments = torch.cuda.memory_snapshot()
    mine = [s for s in segments if s["address"] == x.untyped_storage().data_ptr()]
    assert [(s["total_size"], s["segment_type"]) for s in mine] == [(SIZE, "large")]
    assert mine[0]["blocks"][0]["state"] == "active_allocated"
    held = sum(s["total_size"] for s in segments)
    assert held >= torch.cuda.memory_reserved() - SLACK
    file = tmp_path / "snapshot.pickle"
    torch.cuda.memory._dump_snapshot(str(file))
    torch.cuda.memory._record_memory_history(enabled=None)
    written = pickle.loads(file.read_bytes())
    assert set(written) >= {"segments", "device_traces", "allocator_settings"}
    assert any(s["total_size"] == SIZE for s in written["segments"])


def test_torchs_viewer_reads_a_snapshot():
    x = allocate()
    snapshot = torch.cuda.memory._snapshot()
    assert "segsum" in dir(_memory_viz) and _memory_viz.segsum(snapshot)
    assert "<html" in _memory_viz.trace_plot(snapshot).lower()
    del x


@pytest.mark.parametrize("enabled", ["everything", 3])
def test_a_history_of_another_kind_is_refused(enabled):
    with pytest.raises(RuntimeError, match="expected state to be 'state', 'all', or None"):
        torch.cuda.memory._record_memory_history(enabled)


def test_metadata_is_remembered():
    torch.cuda.memory._set_memory_metadata("step 1")
    assert torch.cuda.memory._get_memory_metadata() == "step 1"
    torch.cuda.memory._set_memory_metadata("")

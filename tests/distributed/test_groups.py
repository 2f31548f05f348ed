"""Groups of processes: what serves them, what they are called, and what is left of them."""

from __future__ import annotations

import sys
import types
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

import torchdevice_mode
from torchdevice_mode import native, redirect
from torchdevice_mode._shims.distributed import _backend

ON_CUDA = torch.cuda.is_available()
pytestmark = pytest.mark.skipif(ON_CUDA, reason="requests for CUDA are CUDA's own here")


@pytest.fixture
def alone():
    """A group of this process alone."""

    def form(backend: str | None = "nccl", **how):
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, **how)
        return dist.group.WORLD

    yield form
    if dist.is_initialized():
        dist.destroy_process_group()


def tables():
    """What torch knows of backends."""
    backend = dist.Backend
    return [
        list(backend.backend_list),
        dict(backend._plugins),
        dict(backend.default_device_backend_map),
        dict(backend.backend_capability),
        dict(backend.backend_type_map),
        set(vars(backend)),
    ]


def kernels_of_torch() -> list[str]:
    """The kernels of all collectives, as the dispatcher lists them."""
    names = [n for n in torch._C._dispatch_get_all_op_names() if n.startswith("c10d::")]
    return [torch._C._dispatch_dump(name) for name in sorted(names)]


# --- which backend ------------------------------------------------------------------------------

OURS = _backend.NAME
SERVED = [
    # asked, for the CPU, for an accelerator without a backend of its own
    ("nccl", "gloo", OURS),
    ("NCCL", "gloo", OURS),
    ("gloo", "gloo", OURS),
    ("undefined", "gloo", OURS),
    ("cuda:nccl", "gloo", OURS),
    ("cuda:nccl,cpu:gloo", "gloo", OURS),
    ("cpu:gloo,cuda:nccl", "gloo", OURS),
    ("cpu:mpi,cuda:nccl", "mpi", f"cpu:mpi,mps:{OURS}"),
    ("cpu:gloo", "gloo", "gloo"),
    ("mpi", "mpi", "mpi"),
    ("ucc", "ucc", "ucc"),
    ("fake", "fake", "fake"),
    ("nonsense", "nonsense", "nonsense"),
    ("cuda:nccl:x", "cuda:nccl:x", "cuda:nccl:x"),
    ("cuda:nccl,cuda:gloo", "cuda:nccl,cuda:gloo", "cuda:nccl,cuda:gloo"),
]


def context_for(target: str) -> types.SimpleNamespace:
    return types.SimpleNamespace(target=torch.device(target))


@pytest.mark.parametrize(("asked", "on_cpu", "staged"), SERVED, ids=[row[0] for row in SERVED])
def test_a_backend_is_translated_for_the_target(asked, on_cpu, staged):
    assert _backend.serving(asked, context_for("cpu")) == on_cpu
    assert _backend.serving(asked, context_for("mps")) == staged


def test_an_installed_backend_of_the_target_is_imported_and_used(monkeypatch, tmp_path):
    (tmp_path / "mccl.py").write_text(
        "import torch.distributed as dist\n"
        "dist.Backend.register_backend('mccl', lambda *given: None, devices=['mps'])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    before = tables()
    try:
        assert _backend.serving("nccl", context_for("mps")) == "cpu:gloo,mps:mccl"
        assert _backend.serving("nccl", context_for("cpu")) == "gloo"
    finally:
        sys.modules.pop("mccl", None)
        dist.Backend.backend_list.remove("mccl")
        for table in (dist.Backend.backend_capability, dist.Backend.backend_type_map):
            del table["mccl"]
        del dist.Backend._plugins["MCCL"], dist.Backend.MCCL
    assert tables() == before


def test_a_broken_installation_of_a_backend_is_not_used(monkeypatch, tmp_path):
    (tmp_path / "mccl.py").write_text("raise OSError('no Metal here')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert _backend.serving("nccl", context_for("mps")) == OURS


# --- what programs ask --------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["nccl", "gloo", "cpu:gloo,cuda:nccl"])
def test_a_group_is_called_what_the_program_named(redirected, alone, asked):
    alone(asked)
    assert dist.get_backend() == asked
    assert dist.get_backend(dist.new_group([0])) == asked
    assert asked == "gloo" or "nccl" not in dist.get_backend_config()


def test_a_group_for_a_device_is_for_nccl(redirected, alone):
    alone(None, device_id=torch.device("cuda", 3))
    assert dist.get_backend() == "nccl"
    tensor = torch.ones(2, device="cuda")
    dist.all_reduce(tensor)
    assert tensor.tolist() == [1, 1]


@pytest.mark.parametrize("device", [0, 5])
def test_a_device_by_its_number_is_the_one_device(redirected, alone, device):
    alone(None, device_id=device)
    assert dist.get_backend() == "nccl"


def test_a_group_that_names_nothing_is_served(redirected, alone):
    alone(None)
    tensor = torch.ones(2, device="cuda")
    dist.all_reduce(tensor)
    assert tensor.device == torch.device("cuda")


def test_nccl_is_available_only_where_redirection_holds(redirected):
    assert dist.is_nccl_available() and dist.is_backend_available("nccl")
    assert distributed_c10d.is_nccl_available()
    with native():
        assert dist.is_nccl_available() is distributed_c10d._NCCL_AVAILABLE


def test_options_of_nccl_are_taken_and_the_class_makes_no_groups(redirected, alone):
    options = dist.ProcessGroupNCCL.Options(is_high_priority_stream=True)
    alone("nccl", pg_options=options, timeout=timedelta(seconds=9))
    assert not isinstance(dist.group.WORLD._get_backend(torch.device("cpu")), dist.ProcessGroupNCCL)
    if not distributed_c10d._NCCL_AVAILABLE:
        with pytest.raises(NotImplementedError, match="init_process_group"):
            dist.ProcessGroupNCCL(dist.HashStore(), 0, 1, options)


def test_the_timeout_is_that_of_nccl(redirected, alone, recwarn):
    alone("nccl")
    assert distributed_c10d._get_default_timeout("nccl") == timedelta(minutes=10)
    assert not [w for w in recwarn if "NCCL" in str(w.message)]


# --- errors -------------------------------------------------------------------------------------


def test_variables_that_are_missing_are_torchs_own_error(redirected, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="environment variable RANK expected, but not set"):
        dist.init_process_group("nccl")


def test_a_backend_that_torch_does_not_know_is_torchs_own_error(redirected, alone):
    with pytest.raises((AssertionError, ValueError, RuntimeError), match=r"(?i)nonsense"):
        alone("nonsense")


def test_plain_torch_still_lacks_nccl(redirected, alone):
    if distributed_c10d._NCCL_AVAILABLE:
        pytest.skip("this torch is built with NCCL")
    with native(), pytest.raises(RuntimeError, match="doesn't have NCCL built in"):
        alone("nccl")


# --- what is left -------------------------------------------------------------------------------


def test_nothing_of_it_is_left_in_torch(alone):
    before, kernels = tables(), kernels_of_torch()
    with redirect():
        alone("nccl")
        dist.all_reduce(torch.ones(1, device="cuda"))
        dist.destroy_process_group()
        assert kernels_of_torch() != kernels
    assert tables() == before
    assert kernels_of_torch() == kernels


def test_a_group_outlives_one_redirection_and_serves_the_next(alone):
    with redirect():
        alone("nccl")
    with redirect():
        tensor = torch.ones(2, device="cuda")
        dist.all_reduce(tensor)
        assert tensor.tolist() == [1, 1]


def test_a_group_of_plain_torch_serves_a_redirection(alone):
    alone("gloo")
    with redirect():
        group = dist.new_group([0])
        tensor = torch.ones(2, device="cuda")
        dist.all_reduce(tensor, group=group)
        assert tensor.tolist() == [1, 1]


def test_staged_calls_are_counted_at_the_line_of_the_program(redirected, alone, target):
    if target.type == "cpu":
        pytest.skip("nothing is staged on the CPU")
    alone("nccl")
    dist.all_reduce(torch.ones(256, device="cuda"))
    found = torchdevice_mode.ledger().entries()
    here = "test_staged_calls_are_counted_at_the_line_of_the_program"
    (entry,) = [e for e in found if e.site.kind == "fallback" and e.site.function == here]
    assert entry.site.file == __file__
    assert (entry.site.asked, entry.count) == ("c10d::allreduce_", 1)
    assert entry.moved == 2 * 256 * 4


# --- devices of ranks ---------------------------------------------------------------------------


def test_a_machine_has_a_device_for_each_rank_that_a_launcher_starts(redirected, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert torch.cuda.device_count() == torch.accelerator.device_count() == 4
    torch.cuda.set_device(3)
    with torch.cuda.device("cuda:2"), torch.cuda.device(1):
        assert torch.zeros(1, device="cuda:3").device == torch.device("cuda")
    assert torch.cuda.current_device() == 0
    assert torch.cuda.get_device_name(3) == torch.cuda.get_device_name(0)
    assert len(torch.cuda.get_rng_state_all()) == len(torch.cuda.default_generators) == 4
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.cuda.set_device(4)


@pytest.mark.parametrize("value", ["", "0", "none", "-2"])
def test_a_launcher_that_tells_no_number_of_ranks_leaves_one_device(redirected, monkeypatch, value):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", value)
    assert torch.cuda.device_count() == 1
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.cuda.set_device(1)


# --- storages -----------------------------------------------------------------------------------


def test_a_storage_shrinks_and_grows_on_the_target(redirected):
    tensor = torch.ones(8, device="cuda")
    storage = tensor.untyped_storage()
    storage.resize_(0)
    assert storage.size() == storage.nbytes() == len(storage) == 0
    storage.resize_(32)
    assert storage.size() == 32
    assert tensor.fill_(2).tolist() == [2.0] * 8
    storage.resize_(64)
    assert storage.nbytes() == 64
    assert torch.empty(0, device="cuda").set_(storage).numel() == 16

"""The table of torch.cuda, and how it gets into torch's place."""

from __future__ import annotations

import inspect
import subprocess
import sys
import types
from unittest import mock

import pytest
import torch
import torch.cuda.amp
import torch.cuda.memory
import torch.cuda.nvtx
import torch.cuda.random
import torch.cuda.streams

from torchdevice_mode import redirect
from torchdevice_mode._shims.cuda import CUDA
from torchdevice_mode.errors import UnsupportedByTargetError

SURFACE, plain = CUDA.rows, CUDA.plain


@pytest.mark.parametrize("name", SURFACE)
def test_every_row_says_why(name):
    reason = SURFACE[name].reason
    assert reason and "\n" not in reason and not reason.endswith(".")


# What torch 2.11 or 2.12 does not have yet.
NEWER = {"_use_uvm", "caching_allocator_disabled", "current_solver_handle"}


@pytest.mark.parametrize("name", sorted(set(SURFACE) - CUDA.added - NEWER))
def test_a_row_names_something_that_torch_has(name):
    assert plain(name) is not None


@pytest.mark.parametrize("name", sorted(NEWER))
def test_what_this_torch_lacks_it_lacks_under_redirection_too(name):
    with redirect():
        assert hasattr(torch.cuda, name) == (plain(name) is not None)


@pytest.mark.parametrize(
    "module",
    [torch.cuda, torch.cuda.memory, torch.cuda.random, torch.cuda.streams, torch.cuda.nvtx],
    ids=lambda module: module.__name__,
)
def test_the_module_object_stays_and_looks_as_it_did(module):
    before = repr(module)
    with redirect():
        assert sys.modules[module.__name__] is module
        assert repr(module) == before
        assert inspect.ismodule(module)
        assert type(module) is not types.ModuleType
    assert type(module) is types.ModuleType


def test_functions_are_the_same_by_every_path():
    with redirect():
        from torch.cuda import memory_allocated

        assert memory_allocated is torch.cuda.memory.memory_allocated is torch.cuda.memory_allocated
        assert torch.cuda.random.manual_seed is torch.cuda.manual_seed
        assert torch.cuda.streams.Event is torch.cuda.Event


def test_a_function_kept_from_a_redirection_is_plain_after_it():
    with redirect():
        is_available, stream = torch.cuda.is_available, torch.cuda.Stream
        assert is_available() is True
    assert is_available() is torch.cuda.is_available()
    if not torch.cuda.is_available():
        # A build without CUDA says that it is one, a CUDA build that there is no driver or GPU.
        with pytest.raises(RuntimeError) as plain_error:
            torch.cuda.Stream()
        with pytest.raises(RuntimeError) as kept_error:
            stream()
        assert str(kept_error.value) == str(plain_error.value)


def test_what_a_program_puts_into_torch_cuda_is_what_it_finds():
    with redirect():
        with mock.patch("torch.cuda.is_available", return_value=False):
            assert torch.cuda.is_available() is False
        assert torch.cuda.is_available() is True
    assert vars(torch.cuda)["is_available"].__module__ == "torch.cuda"


def test_new_attributes_reach_the_module():
    with redirect():
        torch.cuda.something = 1
    try:
        assert torch.cuda.something == 1
    finally:
        del torch.cuda.something


def test_an_absent_name_is_absent_with_torchs_error():
    with redirect(), pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        torch.cuda.no_such_name


@pytest.mark.parametrize(
    "call",
    [
        lambda: torch.cuda.current_blas_handle(),
        lambda: torch.cuda.CUDAPluggableAllocator("a.so", "allocate", "free"),
        lambda: torch.cuda.nccl.unique_id(),
    ],
    ids=["blas_handle", "allocator", "nccl"],
)
def test_what_is_unsupported_says_what_why_and_what_to_do(call):
    with redirect(), pytest.raises(UnsupportedByTargetError) as caught:
        call()
    assert str(caught.value).startswith("torch.cuda.")
    assert " because " in str(caught.value) and ": " in str(caught.value)


def test_stubs_are_counted_at_the_callers_line():
    from torchdevice_mode import _session

    with redirect():
        torch.cuda.nvtx.range_push("step")
        torch.cuda.nvtx.range_pop()
    sites = [entry.site for entry in _session.ledger.entries() if entry.site.file == __file__]
    stubs = {site.asked for site in sites if site.kind == "stub"}
    assert stubs == {"torch.cuda.nvtx.range_push", "torch.cuda.nvtx.range_pop"}


def test_lazy_init_returns_to_python():
    with redirect():
        torch.cuda.init()
        torch.cuda._lazy_init()


def test_lazy_init_refuses_a_request_that_only_cpp_saw():
    class Caller:
        """Calls by a name that is not in its code, as C++ does."""

        def __call__(self):
            return getattr(torch.cuda, "_lazy" + "_init")()

    with redirect(), pytest.raises(AssertionError, match=r"CUDA enabled.*does not see it: name"):
        Caller()()


def test_what_is_imported_later_has_rows_for_what_is_put_off_alone():
    code = """
from torchdevice_mode._shims import SURFACES
at_once = {surface.root: set(surface.known) for surface in SURFACES}
for surface in SURFACES:
    later = {n for n in surface.rows if surface.later.keys() & {n, n.rpartition('.')[0]}}
    assert set(surface.rows) - at_once[surface.root] == later, surface.root
"""
    subprocess.run([sys.executable, "-c", code], check=True)

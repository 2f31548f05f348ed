"""Times of operators, by line, with fallbacks and copies apart."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from conftest import SIMULATED
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import torchdevice_mode as torchdevice

simulated_mps = pytest.mark.skipif(SIMULATED != "mps", reason="needs the simulated mps device")


def timed(*kinds):
    """Entries of this file by operator, of some kinds."""
    found = {}
    for entry in torchdevice.report().entries:
        if entry.file == __file__ and entry.kind in kinds:
            assert entry.seconds > 0
            found[entry.asked, entry.source.partition("# ")[2]] = entry
    return found


@pytest.fixture
def profiled():
    with torchdevice.redirect(profile=True):
        yield


def test_operators_are_timed_at_their_lines(profiled, target):
    x = torch.ones(8, 8, device="cuda")
    for _ in range(3):
        torch.mm(x, x)  # one
    x @ x  # another
    one = timed("operator")["aten::mm", "one"]
    assert (one.count, one.given) == (3, str(target))
    assert timed("operator")["aten::mm", "another"].count == 1


def test_the_backward_pass_is_told_at_the_line_that_calls_it(profiled):
    x = torch.ones(8, 8, device="cuda", requires_grad=True)
    (x @ x).exp().sum().backward()  # backward
    found = timed("operator")
    assert found["aten::exp", "backward"].count == 1
    assert found["aten::mul", "backward"].count >= 1  # what exp's gradient is made by


def test_threads_are_timed_too(profiled):
    def work():
        torch.ones(4, device="cuda").cumsum(0)  # thread

    with torchdevice.redirect(profile=True) as redirection:
        thread = threading.Thread(target=redirection(work))
        thread.start()
        thread.join()
    assert timed("operator")["aten::cumsum", "thread"].count == 1


def test_nothing_is_timed_without_it():
    with torchdevice.redirect():
        assert not _get_current_dispatch_mode_stack()
        torch.ones(4, device="cuda").cumprod(0)  # untimed
    assert not [key for key in timed("operator", "copy") if key[1] == "untimed"]


def test_fake_tensors_and_meta_are_not_timed(profiled):
    torch.empty(3, device="meta").atan()  # meta
    with torch._subclasses.FakeTensorMode():
        torch.empty(3).asin()  # fake
    assert not [key for key in timed("operator") if key[1] in ("meta", "fake")]


def test_compiled_code_runs(profiled):
    compiled = torch.compile(lambda x: (x * 2).sin(), backend="aot_eager", fullgraph=True)
    x = torch.ones(4, device="cuda")
    assert torch.equal(compiled(x).cpu(), (x * 2).sin().cpu())


@simulated_mps
def test_copies_between_devices_are_apart(profiled):
    x = torch.ones(1000, device="cuda")
    with torchdevice.native():
        host = torch.ones(1000)
    host.to("cuda")  # there
    x.sum().item()  # back
    found = timed("copy")
    there = found["aten::_to_copy", "there"]
    assert (there.given, there.moved) == ("cpu to mps:0", 4000)
    assert found["aten::_local_scalar_dense", "back"].given == "mps:0 to cpu"
    assert ("aten::_to_copy", "there") not in timed("operator")


@simulated_mps
@pytest.mark.filterwarnings("ignore")
def test_an_operator_that_is_missing_is_told_once():
    with torchdevice.simulate.missing_operators(["aten::heaviside"]):
        with torchdevice.redirect(profile=True):
            x = torch.rand(100, device="cuda")
            x.heaviside(x)  # missing
    assert timed("fallback")["aten::heaviside", "missing"].count == 1
    assert not [name for name, line in timed("operator", "copy") if line == "missing"]


@simulated_mps
@pytest.mark.filterwarnings("ignore")
def test_a_call_that_is_refused_is_told_once():
    def kernel(*args, **kwargs):
        raise RuntimeError("MPS does not support tanh")

    with torch.library._scoped_library("aten", "IMPL") as library:
        for overload in ("tanh", "tanh.out"):
            library.impl(overload, kernel, "MPS", allow_override=True)
        with torchdevice.redirect(profile=True):
            x = torch.rand(100, device="cuda")
            torch.tanh(x)  # refused
    assert timed("fallback")["tanh", "refused"].count == 1
    assert not [name for name, line in timed("operator", "copy") if line == "refused"]


def test_the_report_adds_the_lines_up(profiled):
    x = torch.ones(8, 8, device="cuda")
    x.tril()  # first
    x.tril()  # second
    report = torchdevice.report()
    assert report.profiled
    # The ledger is that of all tests before this one, too: only these two lines are looked at.
    lines = [e for e in report.entries if e.file == __file__ and e.asked == "aten::tril"]
    report = replace(report, entries=tuple(lines))
    (one,) = report.operators
    assert one.count == sum(e.count for e in lines) == 2
    assert one.seconds == pytest.approx(sum(e.seconds for e in lines))
    assert "aten::tril" in report.html() and "aten::tril" in report.text()


def test_what_is_timed_is_no_event(profiled):
    torch.ones(8, 8, device="cuda").triu()  # timed
    report = torchdevice.report()
    assert not {"operator", "copy"} & set(report.totals)
    assert not [e for e in report.events if e.kind in ("operator", "copy")]

"""Costs of the backward pass are counted at the line that a migration would change."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from torchdevice_mode import _origins, _session, redirect, simulate

pytestmark = [
    pytest.mark.skipif(
        simulate.loaded_device() != "mps", reason="takes operators away from the simulated device"
    ),
    pytest.mark.filterwarnings("ignore::torchdevice_mode.TorchDeviceWarning"),
]

TARGETS = [0, 1]


@pytest.fixture(autouse=True)
def without():
    missing = ["multi_margin_loss", "multi_margin_loss_backward", "take", "sigmoid_backward"]
    with simulate.missing_operators(missing), redirect() as redirection:
        yield redirection


@pytest.fixture
def lines():
    """How often an operator fell back in this test, by the comment at the end of the line."""
    source = Path(__file__).read_text().splitlines()

    def counts():
        return {
            entry.site: entry.count
            for entry in _session.ledger.entries()
            if entry.site.kind == "fallback" and entry.site.file == __file__
        }

    def lines(operator):
        return {
            source[site.line - 1].rpartition("# ")[2]: count - before.get(site, 0)
            for site, count in counts().items()
            if site.asked == f"aten::{operator}" and count > before.get(site, 0)
        }

    before = counts()
    return lines


def margins():
    return torch.tensor([[1.0, 2.0], [3.0, 4.0]], device="cuda", requires_grad=True)


def test_a_backward_fallback_belongs_to_its_forward_line(lines):
    x, where = margins(), torch.tensor(TARGETS)
    first = torch.nn.functional.multi_margin_loss(x, where)  # one
    second = torch.nn.functional.multi_margin_loss(x * 2, where)  # two
    for _ in range(2):
        (first + second).backward(retain_graph=True)
    found = lines("multi_margin_loss_backward")
    assert {line.rpartition("# ")[2]: count for line, count in found.items()} == {
        "one": 2,
        "two": 2,
    }


def test_without_a_known_forward_line_it_belongs_to_the_call_of_backward(lines):
    x = margins()
    torch.sigmoid(x).sum().backward()  # the call
    assert lines("sigmoid_backward") == {"the call": 1}


def test_a_call_in_a_hook_belongs_to_the_hook(lines):
    x = margins()
    loss = torch.nn.functional.multi_margin_loss(x, torch.tensor(TARGETS))
    index = torch.tensor([0, 0, 1, 1], device="cuda").reshape(2, 2)

    def hook(grad):
        return torch.take(grad, index)  # in the hook

    x.register_hook(hook)
    loss.backward()
    assert lines("take") == {"in the hook": 1}


def test_what_autograd_does_not_record_leaves_other_lines_alone(lines):
    x, where = margins(), torch.tensor(TARGETS)
    loss = torch.nn.functional.multi_margin_loss(x, where)  # recorded
    torch.take(x.detach(), where)
    with torch.no_grad():
        torch.take(x, where)
    loss.backward()
    assert lines("multi_margin_loss_backward") == {"recorded": 1}


def test_recomputation_belongs_to_the_line_in_the_checkpoint(lines):
    def block(x):
        return torch.nn.functional.multi_margin_loss(x, where).exp()  # recomputed

    where = torch.tensor(TARGETS)
    checkpoint(block, margins(), use_reentrant=False).backward()
    assert lines("multi_margin_loss") == {"recomputed": 2}
    assert lines("multi_margin_loss_backward") == {"recomputed": 1}


def test_threads_number_their_nodes_apart(lines):
    losses, where = {}, torch.tensor(TARGETS)

    def one():
        losses["one"] = torch.nn.functional.multi_margin_loss(margins(), where)  # in thread one
        losses["one"].backward()

    def two():
        losses["two"] = torch.nn.functional.multi_margin_loss(margins(), where)  # in thread two
        losses["two"].backward()

    for work in (one, two):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert lines("multi_margin_loss_backward") == {"in thread one": 1, "in thread two": 1}


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(_origins, "_MOST_NODES", 3)
    monkeypatch.setattr(_origins, "_forward", {})
    x, where = margins(), torch.tensor(TARGETS)
    losses = [torch.nn.functional.multi_margin_loss(x, where) for _ in range(9)]
    assert len(_origins._forward) == 3
    losses[0].backward()

"""What the program is told of stray operands: counts, a module left behind, and a loop."""

from __future__ import annotations

import threading
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import torchdevice_mode
from torchdevice_mode import _strays
from torchdevice_mode._log import forget_warnings

pytestmark = pytest.mark.simulated


@pytest.fixture(autouse=True)
def warnings_are_said_anew():
    forget_warnings()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))

    def forward(self, x):
        return self.second(self.first(x))


def left(make):
    """What is made in plain torch, and stays on the CPU."""
    with torchdevice_mode.native():
        return make()


def stray():
    return torch.from_numpy(np.ones(4, dtype=np.float32))


def said(program):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        program()
    return [(w.message.slug, str(w.message), w.filename, w.lineno) for w in caught]


def line_of(text):
    with open(__file__) as file:
        return next(n for n, line in enumerate(file, 1) if line.rstrip().endswith(text))


def test_a_module_left_behind_is_named_once_where_it_is_called(redirected, target):
    module, x = left(Net), torch.ones(2, 4, device="cuda")

    def program():
        for _ in range(3):
            module(x)  # called here

    ((slug, text, file, line),) = said(program)
    assert (slug, file, line) == ("module-left-behind", __file__, line_of("# called here"))
    assert text.startswith("Net is on the CPU, at least `first.weight`")
    assert str(target) in text and ".to(device)" in text


def test_each_class_is_told_of_once(redirected):
    net, layer, x = left(Net), left(lambda: nn.Linear(4, 4)), torch.ones(2, 4, device="cuda")

    def program():
        net(x)
        for module in (net, layer, net, layer):
            module(x)
        layer(x)

    names = [text.partition(" ")[0] for _, text, _, _ in said(program)]
    assert names == ["Net", "Linear", "Linear"], "once for each line that calls a layer"


@pytest.mark.parametrize("part", ["second.0.running_mean", "second.1.bias"])
def test_a_part_left_behind_is_named(redirected, part):
    module, x = Net().cuda(), torch.ones(2, 4, device="cuda")
    owner, _, name = part.rpartition(".")
    tensor = getattr(module.get_submodule(owner), name)
    with torch.no_grad():
        tensor.data = left(lambda: tensor.detach().cpu())
    ((slug, text, _, _),) = said(lambda: module(x))
    assert slug == "module-left-behind" and f"`{part}`" in text


def test_a_module_on_the_accelerator_is_not_accused(redirected):
    module = nn.Linear(4, 4).cuda()
    assert said(lambda: module(stray())) == []


def test_what_a_module_writes_into_is_not_accused(redirected):
    module = left(lambda: nn.Linear(4, 4))

    def program():
        with torch.no_grad():
            module.bias.add_(torch.ones(4, device="cuda"))

    assert said(program) == []


def test_a_module_is_named_in_threads_and_in_recomputation(redirected):
    module, x = left(Net), torch.ones(2, 4, device="cuda", requires_grad=True)

    def program():
        thread = threading.Thread(target=lambda: module(x))
        thread.start()
        thread.join()
        torch.utils.checkpoint.checkpoint(module, x, use_reentrant=False).sum().backward()

    assert {slug for slug, *_ in said(program)} == {"module-left-behind"}


def test_a_warning_can_be_silenced(redirected, monkeypatch):
    monkeypatch.setenv("TORCHDEVICE_SILENCE", "module-left-behind")
    module, x = left(Net), torch.ones(2, 4, device="cuda")
    assert said(lambda: module(x)) == []


def test_a_tensor_that_a_loop_uses_from_the_cpu_is_told_of_once(redirected, monkeypatch):
    monkeypatch.setattr(_strays, "_MANY", 5)
    x, y = torch.ones(4, device="cuda"), stray()

    def program():
        for _ in range(4):
            x * y
        assert said(lambda: None) == []
        for _ in range(12):
            x + y  # in the loop

    ((slug, text, file, line),) = said(program)
    assert (slug, file, line) == ("repeated-adoption", __file__, line_of("# in the loop"))
    assert "5 times" in text


def test_what_was_copied_is_counted(redirected, events):
    x, y = torch.ones(4, device="cuda"), stray()
    before = moved()
    for _ in range(3):
        x + y
    y.add_(x)
    assert events("adoption") == 4
    assert moved() - before == 4 * 16


def moved():
    entries = torchdevice_mode.ledger().entries()
    here = [e for e in entries if e.site.file == __file__ and e.site.kind == "adoption"]
    return sum(entry.moved for entry in here)

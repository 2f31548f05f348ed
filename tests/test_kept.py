"""Who keeps values by `.cpu()` where that copies nothing is told when they change."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch

import torchdevice_mode as torchdevice
from torchdevice_mode import _log


@pytest.fixture
def warned():
    """Runs a program under redirection; the lines it is warned of, by the comment there."""
    _log.forget_warnings()
    source = Path(__file__).read_text().splitlines()

    def run(program, **settings):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with torchdevice.redirect(**settings):
                alive = program()
                during = [w for w in caught if "[kept-by-cpu]" in str(w.message)]
            del alive
        found = [w for w in caught if "[kept-by-cpu]" in str(w.message)]
        assert {w.filename for w in found} <= {__file__}
        return [source[w.lineno - 1].partition("# ")[2] for w in found], len(during)

    return run


def module():
    return torch.nn.Linear(3, 2).cuda()


def train(network):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)


def weights_kept():
    network = module()
    best = {k: v.cpu() for k, v in network.state_dict().items()}  # kept
    train(network)
    return network, best


def weights_kept_by_to():
    network = module()
    best = [p.detach().to("cpu") for p in network.parameters()]  # kept by to
    train(network)
    return network, best


def a_view_kept():
    whole = torch.zeros(4, device="cuda").fill_(2)
    part = whole[:2].cpu()  # a view
    whole += 1
    return whole, part


@pytest.mark.parametrize(
    ("program", "comment"),
    [(weights_kept, "kept"), (weights_kept_by_to, "kept by to"), (a_view_kept, "a view")],
)
def test_who_keeps_what_changes_is_told_once_at_the_line(warned, program, comment):
    assert warned(program) == ([comment], 0)


def weights_cloned():
    network = module()
    best = {k: v.cpu().clone() for k, v in network.state_dict().items()}
    train(network)
    return network, best


def weights_that_stay():
    return [p.detach().cpu() for p in module().parameters()]


def numbers_looked_at():
    network = module()
    shown = [p.detach().cpu().numpy().sum() for p in network.parameters()]
    train(network)
    return shown


def a_result_that_nobody_shares():
    total = torch.zeros(3, device="cuda").cpu()
    total += 1
    return total


@pytest.mark.parametrize(
    "program",
    [weights_cloned, weights_that_stay, numbers_looked_at, a_result_that_nobody_shares],
)
def test_others_are_told_nothing(warned, program):
    assert warned(program) == ([], 0)


def test_where_the_cpu_is_another_device_a_copy_is_made(warned, target):
    kept = weights_kept_then_compared if target.type == "cpu" else weights_are_copied
    assert warned(kept, policy="explicit")[0] == ([] if target.type != "cpu" else ["compared"])


def weights_are_copied():
    network = module()
    best = [p.detach().cpu() for p in network.parameters()]
    train(network)
    assert not any(torch.equal(a, b.cpu()) for a, b in zip(best, network.parameters(), strict=True))
    return best


def weights_kept_then_compared():
    network = module()
    best = [p.detach().cpu() for p in network.parameters()]  # compared
    train(network)
    return network, best


def test_a_training_loop_is_told_while_it_runs(warned):
    def many_epochs():
        network = module()
        best = None
        for _ in range(20):
            best = {k: v.cpu() for k, v in network.state_dict().items()}  # each epoch
            train(network)
        return network, best

    assert warned(many_epochs) == (["each epoch"], 1)


def test_what_is_gone_is_forgotten():
    with torchdevice.redirect():
        context = torchdevice._active.current()
        network = module()
        for _ in range(200):
            for parameter in network.parameters():
                parameter.detach().cpu()
        assert len(context.kept._tensors) <= 2 * 16


def test_a_program_that_never_disables_is_told_at_its_end():
    program = (
        "import torch, torchdevice\n"
        "torchdevice.enable()\n"
        "network = torch.nn.Linear(3, 2).cuda()\n"
        "best = {k: v.cpu() for k, v in network.state_dict().items()}\n"
        "torch.nn.init.zeros_(network.weight)\n"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert Counter(done.stderr.split())["[kept-by-cpu]"] == 1

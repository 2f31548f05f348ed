"""No copy is asynchronous on MPS, where such copies corrupt data, and no memory is pinned there.

What reaches the dispatcher is recorded, whichever way a program asks for it.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence
from torch.utils._python_dispatch import TorchDispatchMode

import torchdevice_mode

pytestmark = pytest.mark.simulated_mps


class Asked(TorchDispatchMode):
    """Operators that were asked to copy asynchronously, or to pin memory."""

    def __init__(self):
        super().__init__()
        self.of = []

    @classmethod
    def ignore_compile_internals(cls):
        return True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for position, argument in enumerate(func._schema.arguments):
            if argument.name in ("non_blocking", "pin_memory"):
                given = args[position] if position < len(args) else kwargs.get(argument.name)
                self.of += [f"{argument.name} of {func}"] if given else []
        return func(*args, **kwargs)


def left():
    """A CPU tensor under every policy."""
    return torch.from_numpy(np.ones(2, dtype=np.float32))


def placed():
    return torch.zeros(2, device="cuda")


class Moves(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor):
        y = y.to(x.device).copy_(x, non_blocking=True)
        return x.to("cuda", non_blocking=True) + y.to(torch.device("cuda:0"), torch.float32, True)


class FollowsAnother(torch.nn.Module):
    """Names no device, so nothing else of it is rewritten."""

    def forward(self, x: torch.Tensor, y: torch.Tensor):
        return x.to(y, non_blocking=True)


def scripted(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(module)


def filled(tensor, source, **how):
    tensor.untyped_storage().copy_(source.untyped_storage(), **how)
    return tensor


# Each leaves ones on the accelerator, or what the last column says.
COPIES = {
    "to": lambda: left().to("cuda", non_blocking=True),
    "to by keywords": lambda: left().to(device="cuda", non_blocking=True),
    "to by position": lambda: left().to("cuda", torch.float32, True),
    "to without a dtype": lambda: left().to("cuda", None, True),
    "to as a copy": lambda: left().to("cuda", None, True, True),
    "to the target's own name": lambda: left().to("mps", non_blocking=True),
    "to a number": lambda: left().to(0, non_blocking=True),
    "to another tensor": lambda: left().to(placed(), True),
    "cuda": lambda: left().cuda(non_blocking=True),
    "cuda by position": lambda: left().cuda(0, True),
    "type": lambda: left().type("torch.cuda.FloatTensor", non_blocking=True),
    "copy_": lambda: placed().copy_(left(), non_blocking=True),
    "copy_ by position": lambda: placed().copy_(left(), True),
    "lists": lambda: lists(non_blocking=True),
    "lists by position": lambda: lists(True),
    "module": lambda: module_of_ones().to("cuda", non_blocking=True).weight[0],
    "module by position": lambda: module_of_ones().to("cuda", torch.float32, True).weight[0],
    "packed": lambda: pack_sequence([left()]).to("cuda", non_blocking=True).data,
    "packed cuda": lambda: pack_sequence([left()]).cuda(non_blocking=True).data,
    "storage": lambda: filled(placed(), left(), non_blocking=True),
    "scripted": lambda: scripted(Moves())(left(), placed()) / 2,
    "scripted without a device": lambda: scripted(FollowsAnother())(left(), placed()),
    "compiled": lambda: torch.compile(
        lambda x: x.to("cuda", non_blocking=True) * 1, backend="aot_eager", fullgraph=True
    )(left()),
}


def lists(*how, **by_name):
    tensor = placed()
    torch._foreach_copy_([tensor], [left()], *how, **by_name)
    return tensor


def module_of_ones():
    with torchdevice_mode.native():
        module = torch.nn.Linear(2, 2)
        torch.nn.init.ones_(module.weight)
    return module


@pytest.mark.parametrize("policy", ["force", "explicit"])
@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_a_copy_to_mps_waits(copy, policy, target):
    with torchdevice_mode.redirect(policy=policy), Asked() as asked:
        result = copy()
    assert asked.of == []
    assert result.device == target
    assert result.tolist() == pytest.approx([1, 1])


BACK = {
    "copy_": lambda x: x.copy_(placed() + 1, non_blocking=True),
    "lists": lambda x: torch._foreach_copy_([x], [placed() + 1], True),
    "storage": lambda x: filled(x, placed() + 1, non_blocking=True),
}


@pytest.mark.parametrize("copy", BACK.values(), ids=BACK)
def test_a_copy_from_mps_waits(redirected, copy):
    tensor = left() * 3
    with Asked() as asked:
        copy(tensor)
    assert asked.of == []
    assert tensor.tolist() == [1, 1]


def test_a_move_from_mps_waits():
    with torchdevice_mode.redirect(policy="explicit"), Asked() as asked:
        tensor = (placed() + 1).to("cpu", non_blocking=True)
    assert asked.of == []
    assert (tensor.device.type, tensor.tolist()) == ("cpu", [1, 1])


def test_operators_called_by_name_wait_under_the_dispatch_mode():
    with Asked() as asked, torchdevice_mode.redirect(dispatch="always"):
        torch.ops.aten._to_copy(left(), device=torch.device("mps:0"), non_blocking=True)
    assert asked.of == []


def test_what_is_kept_for_backward_waits(redirected):
    x = placed().requires_grad_()
    with Asked() as asked, torch.autograd.graph.save_on_cpu(pin_memory=True):
        y = (x * x).sum()
        y.backward()
    assert asked.of == []


def test_plain_torch_copies_as_it_is_told(redirected):
    with torchdevice_mode.native(), Asked() as asked:
        left().to("mps", non_blocking=True)
    assert len(asked.of) == 1


# --- pinned memory --------------------------------------------------------------------------

PINNED = {
    "empty": lambda: torch.empty(2, pin_memory=True),
    "on the CPU": lambda: torch.ones(2, device="cpu", pin_memory=True),
    "tensor": lambda: torch.tensor([1.0], pin_memory=True),
    "like": lambda: torch.zeros_like(left(), pin_memory=True),
    "new": lambda: left().new_zeros(2, pin_memory=True),
    "normal": lambda: torch.normal(0.0, 1.0, (2,), pin_memory=True),
    "randperm": lambda: torch.randperm(3, pin_memory=True),
    "window": lambda: torch.hann_window(3, pin_memory=True),
    "indices": lambda: torch.tril_indices(2, 2, pin_memory=True),
    "sparse": lambda: torch.sparse_coo_tensor([[0]], [1.0], (2,), pin_memory=True),
    "nested": lambda: torch.nested.nested_tensor([[1.0]], pin_memory=True),
    "pinned": lambda: left().pin_memory(),
    "pinned for a device": lambda: left().pin_memory("cuda"),
    "pinned on the accelerator": lambda: placed().pin_memory(),
    "packed": lambda: pack_sequence([left()]).pin_memory().data,
}


@pytest.mark.parametrize("make", PINNED.values(), ids=PINNED)
@pytest.mark.parametrize("policy", ["force", "explicit"])
def test_no_memory_is_pinned_where_none_can_be(make, policy):
    with torchdevice_mode.redirect(policy=policy), Asked() as asked:
        tensor = make()
        assert not tensor.is_pinned()
        assert not tensor.is_pinned("cuda")
    assert asked.of == []


def test_to_pin_a_tensor_is_that_tensor(redirected):
    tensor = left()
    assert tensor.pin_memory() is tensor


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_that_pins_and_a_copy_that_does_not_wait_give_the_data(redirected, workers):
    data = torch.utils.data.TensorDataset(torch.arange(8.0), torch.arange(8))
    loader = torch.utils.data.DataLoader(
        data, batch_size=4, pin_memory=True, pin_memory_device="cuda", num_workers=workers
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*pin_memory_device.*deprecated")
        warnings.filterwarnings("error", message=".*pin_memory.*no accelerator")
        batches = [(x.to("cuda", non_blocking=True), y.cuda(non_blocking=True)) for x, y in loader]
    assert [x.tolist() for x, _ in batches] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [y.tolist() for _, y in batches] == [[0, 1, 2, 3], [4, 5, 6, 7]]

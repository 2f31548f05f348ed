"""What a call writes into is known, whichever way torch spells it."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F

from torchdevice_mode._writes import writes

A, B, C, D = (torch.zeros(2) for _ in range(4))
add_ = torch.ops.aten.add_

# A call, what it writes into, and what it updates on the way.
CALLS = {
    "functional": (torch.add, (A, B), {}, [], []),
    "in place": (torch.Tensor.add_, (A, B), {}, [A], []),
    "in place by a keyword": (torch.relu_, (), {"input": A}, [A], []),
    "out": (torch.add, (A, B), {"out": C}, [C], []),
    "no out": (torch.add, (A, B), {"out": None}, [], []),
    "several outs": (torch.sort, (A,), {"out": (B, C)}, [B, C], []),
    "augmented": (torch.Tensor.__iadd__, (A, B), {}, [A], []),
    "inverted": (torch.Tensor.__invert__, (A,), {}, [], []),
    "compared": (torch.Tensor.__eq__, (A, B), {}, [], []),
    "an item": (torch.Tensor.__setitem__, (A, 0, B), {}, [A], []),
    "an attribute": (torch.Tensor.grad.__set__, (A, B), {}, [A], []),
    "an attribute that is read": (torch.Tensor.grad.__get__, (A,), {}, [], []),
    "initialised": (torch.nn.init.normal_, (A,), {}, [A], []),
    "a list": (torch._foreach_add_, ([A, B], [C, D]), {}, [A, B], []),
    "a list of results": (torch._foreach_add, ([A, B], [C, D]), {}, [], []),
    "overload": (add_.Tensor, (A, B), {}, [A], []),
    "packet": (add_, (A, B), {}, [A], []),
    "overload with out": (torch.ops.aten.add.out, (A, B), {"out": C}, [C], []),
    "wrapped": (functools.wraps(torch.Tensor.add_)(lambda *a: a), (A, B), {}, [A], []),
    "outs by their names": (
        torch.ops.aten.sort.values,
        (A,),
        {"values": B, "indices": C},
        [B, C],
        [],
    ),
    "statistics of training": (F.batch_norm, (A, B, C), {"training": True}, [], [B, C]),
    "statistics that are used": (F.batch_norm, (A, B, C), {}, [], []),
    "statistics by keywords": (
        F.batch_norm,
        (A,),
        {"running_mean": B, "running_var": C, "training": True},
        [],
        [B, C],
    ),
    "no statistics": (F.batch_norm, (A, None, None), {"training": True}, [], []),
    "statistics of instances": (F.instance_norm, (A, B, C), {}, [], [B, C]),
    "statistics in C++": (torch.batch_norm, (A, B, C, D, A, True), {}, [], [D, A]),
    "statistics of an operator": (
        torch.ops.aten.native_batch_norm.default,
        (A, None, None, B, C, True, 0.1, 1e-5),
        {},
        [],
        [B, C],
    ),
    "statistics by schema": (
        torch.ops.aten._native_batch_norm_legit.default,
        (A, None, None, B, C, True, 0.1, 1e-5),
        {},
        [],
        [B, C],
    ),
    "table": (F.embedding, (A, B), {}, [], []),
    "table with a largest norm": (F.embedding, (A, B), {"max_norm": 1.0}, [], [B]),
    "table of bags": (F.embedding_bag, (A, B, None, 1.0), {}, [], [B]),
    "states of an optimizer": (
        torch._fused_sgd_,
        ([A], [B], [C]),
        {"lr": 1.0},
        [A],
        [B, C],
    ),
    "scale of a scaler": (torch._amp_update_scale_, (A, B, C, 2.0, 0.5, 1), {}, [A], [B]),
}


@pytest.mark.parametrize(("func", "args", "kwargs", "into", "aside"), CALLS.values(), ids=CALLS)
def test_what_a_call_writes_into(func, args, kwargs, into, aside):
    found = writes(func, args, kwargs)
    assert {id(tensor) for tensor in found.into} == {id(tensor) for tensor in into}
    assert {id(tensor) for tensor in found.aside} == {id(tensor) for tensor in aside}


def test_an_operator_of_a_library_says_what_it_writes_into():
    with torch.library._scoped_library("torchdevice_writes", "DEF") as library:
        library.define("update(Tensor x, Tensor(a!) state, *, Tensor(b!) count) -> Tensor")
        update = torch.ops.torchdevice_writes.update
        for func in (update, update.default):
            found = writes(func, (A, B), {"count": C})
            assert [id(tensor) for tensor in found.into] == [id(C)]
            assert [id(tensor) for tensor in found.aside] == [id(B)]

"""Stray operands are brought to one device, and what a call writes into is what changes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import torchdevice_mode
from torchdevice_mode._log import forget_warnings
from torchdevice_mode.errors import TorchDeviceWarning


@pytest.fixture(autouse=True)
def warnings_are_said_anew():
    forget_warnings()


def from_numpy(*values, dtype=np.float32):
    """A CPU tensor under every policy."""
    return torch.from_numpy(np.array(values, dtype=dtype))


def ones():
    return torch.ones(4, device="cuda")


def square(tensor):
    return tensor.reshape(1, 1, 2, 2)


# Each is given a float tensor of 0 to 3, a boolean one, and an integer one, all on the CPU.
MEETINGS = {
    "keyword": lambda s, m, i: torch.add(input=ones(), other=s, alpha=2),
    "three operands": lambda s, m, i: torch.addcmul(ones(), s, ones(), value=2),
    "nested in a tuple": lambda s, m, i: torch.cat((ones(), s, ones())),
    "nested in a list": lambda s, m, i: torch._foreach_add([ones()], [s])[0],
    "einsum": lambda s, m, i: torch.einsum("i,j->ij", ones(), s),
    "mask of where": lambda s, m, i: torch.where(m, ones(), 0.0),
    "mask of masked_fill": lambda s, m, i: ones().masked_fill(m, 0.0),
    "mask of masked_select": lambda s, m, i: torch.masked_select(ones(), m),
    "mask of attention": lambda s, m, i: torch.nn.functional.scaled_dot_product_attention(
        *(square(ones()),) * 3, attn_mask=torch.eye(2, device="cuda").bool().logical_or(m[1])
    ),
    "mask as index": lambda s, m, i: ones()[m],
    "indices": lambda s, m, i: ones()[i],
    "indices of both kinds": lambda s, m, i: ones().reshape(2, 2)[
        i // 2, torch.tensor([1, 0], device="cuda")
    ],
    "indexed itself": lambda s, m, i: s[torch.tensor([1, 2], device="cuda")],
    "masked itself": lambda s, m, i: s[ones() > 0],
    "take_along_dim": lambda s, m, i: torch.take_along_dim(ones(), i, 0),
    "repeat_interleave": lambda s, m, i: torch.repeat_interleave(ones()[:2], i),
    "embedding": lambda s, m, i: torch.nn.functional.embedding(i, ones().reshape(4, 1)),
    "convolution": lambda s, m, i: torch.nn.functional.conv2d(square(ones()), square(s)),
    "layer_norm": lambda s, m, i: torch.nn.functional.layer_norm(ones(), (4,), weight=s),
    "weights of a loss": lambda s, m, i: torch.nn.functional.cross_entropy(
        ones().reshape(1, 4), torch.tensor([1], device="cuda"), weight=s
    ),
    "target of a loss": lambda s, m, i: torch.nn.functional.cross_entropy(
        ones().reshape(2, 2), i // 2
    ),
    "solve": lambda s, m, i: torch.linalg.solve(torch.eye(2, device="cuda"), s[:2]),
    "comparison": lambda s, m, i: ones() == s,
    "aten": lambda s, m, i: torch.ops.aten.add(ones(), s),
    "module": lambda s, m, i: torch.nn.LayerNorm(4)(s),
}


def strays():
    return from_numpy(0, 1, 2, 3), from_numpy(0, 1, 0, 1, dtype=bool), from_numpy(2, 0, dtype=int)


@pytest.mark.parametrize("call", MEETINGS.values(), ids=MEETINGS)
def test_a_cpu_tensor_that_meets_accelerator_tensors_is_moved_for_the_call(
    redirected, target, call
):
    given = strays()
    result = call(*given)
    assert result.device == target
    assert {tensor.device.type for tensor in given} == {"cpu"}
    with torchdevice_mode.redirect(target="cpu"):
        expected = call(*strays())
    torch.testing.assert_close(result.tolist(), expected.tolist())


# Each changes one of a CPU tensor of 0 to 3 and an accelerator tensor of ones.
WRITES = {
    "masked by the CPU": lambda s, p: p.__setitem__(from_numpy(0, 1, 0, 1, dtype=bool), s[:2]),
    "indexed by the CPU": lambda s, p: p.index_put_((from_numpy(2, 0, dtype=int),), s[:2]),
    "masked_fill_": lambda s, p: p.masked_fill_(s > 1, 0.0),
    "scatter_": lambda s, p: p.scatter_(0, from_numpy(2, 0, dtype=int), s[2:]),
    "add_": lambda s, p: p.add_(s, alpha=2),
    "copy_": lambda s, p: p.copy_(s),
    "set_ a slice": lambda s, p: p.__setitem__(slice(2), s[2:]),
    "by an accelerator mask": lambda s, p: s.__setitem__(p > 0, p + 1),
    "view": lambda s, p: s[1:].mul_(p[:3] + 1),
    "out": lambda s, p: torch.logaddexp(p, s, out=s),
    "out on the accelerator": lambda s, p: torch.mul(s, s, out=p),
}


@pytest.mark.parametrize("call", WRITES.values(), ids=WRITES)
def test_what_a_call_writes_into_is_what_changes(redirected, target, call):
    stray, placed = strays()[0], ones()
    call(stray, placed)
    with torchdevice_mode.redirect(target="cpu"):
        plain_stray, plain_placed = strays()[0], ones()
        call(plain_stray, plain_placed)
    assert (stray.device.type, placed.device) == ("cpu", target)
    torch.testing.assert_close(stray.tolist(), plain_stray.tolist())
    torch.testing.assert_close(placed.tolist(), plain_placed.tolist())


def test_outputs_on_two_devices_are_both_written(redirected):
    values, indices = torch.empty(4, device="cuda"), from_numpy(0, 0, 0, 0, dtype=int)
    result = torch.sort(strays()[0], descending=True, out=(values, indices))
    assert result[0] is values
    assert result[1] is indices
    assert values.tolist() == [3, 2, 1, 0]
    assert indices.tolist() == [3, 2, 1, 0]


PARALLEL = {
    "add": lambda a, b: torch._foreach_add_(a, b),
    "add with alpha": lambda a, b: torch._foreach_add_(a, b, alpha=2),
    "by keyword": lambda a, b: torch._foreach_mul_(a, other=b),
    "lerp": lambda a, b: torch._foreach_lerp_(a, b, 0.5),
    "addcmul": lambda a, b: torch._foreach_addcmul_(a, b, b),
    "clamp_max": lambda a, b: torch._foreach_clamp_max_(a, b),
    "copy": lambda a, b: torch._foreach_copy_(a, b),
    "one list": lambda a, b: torch._foreach_mul_(a, 2.0),
    "one list by numbers": lambda a, b: torch._foreach_div_(a, [2.0, 4.0, 8.0]),
}


@pytest.mark.parametrize("call", PARALLEL.values(), ids=PARALLEL)
def test_a_list_is_worked_off_once(redirected, target, call):
    # torch does the first pair before it comes to one that it refuses.
    mixed = [ones() + 1, strays()[0], ones() + 2]
    call(mixed, [ones() + 3, ones() + 4, strays()[0] + 5])
    with torchdevice_mode.redirect(target="cpu"):
        plain = [ones() + 1, strays()[0], ones() + 2]
        call(plain, [ones() + 3, ones() + 4, strays()[0] + 5])
    assert [t.device.type for t in mixed] == [target.type, "cpu", target.type]
    assert [t.tolist() for t in mixed] == [t.tolist() for t in plain]


def test_dropout_is_drawn_once(redirected):
    with torchdevice_mode.native():
        layer = torch.nn.MultiheadAttention(4, 2, dropout=0.5)
    moved = copy.deepcopy(layer).cuda()
    # Refused at the last layer, after dropout.
    mixed = copy.deepcopy(moved)
    mixed.out_proj = layer.out_proj
    x, results = torch.ones(3, 1, 4, device="cuda"), []
    for module in (moved, mixed):
        torch.manual_seed(0)
        results.append(module(x, x, x)[0])
    torch.testing.assert_close(*results)


BUFFERS = {
    "add": lambda t, p: t.add_(p),
    "augmented": lambda t, p: t.__iadd__(p),
    "aten": lambda t, p: torch.ops.aten.add_.Tensor(t, p),
    "out": lambda t, p: torch.mul(p, p, out=t),
    "aten with out": lambda t, p: torch.ops.aten.mul.out(p, p, out=t),
    "copied": lambda t, p: t.copy_(p),
    "copied in a list": lambda t, p: torch._foreach_copy_([t], [p]),
    "a slice": lambda t, p: t.__setitem__(slice(1, 3), p[2:]),
    "a view": lambda t, p: t.reshape(2, 2)[1].mul_(p[:2]),
    "transposed": lambda t, p: t.reshape(2, 2).t().sub_(p.reshape(2, 2)),
    "by mask": lambda t, p: t.__setitem__(p > 2, 9.0),
    "by places": lambda t, p: t.index_put_((p[:2].long() - 1,), p[2:]),
    "scattered": lambda t, p: t.scatter_(0, p.long() - 1, p),
    "where": lambda t, p: torch.where(p > 2, t, p, out=t),
    "stacked": lambda t, p: torch.cat([p[:2], t[2:].clone()], out=t),
    "drawn": lambda t, p: t.uniform_(generator=torch.Generator("cuda")).fill_(3.0),
}


@pytest.mark.parametrize("call", BUFFERS.values(), ids=BUFFERS)
def test_an_array_changes_when_its_tensor_is_written_into(redirected, call):
    def written(place):
        array = np.arange(4, dtype=np.float32)
        call(torch.from_numpy(array), place(torch.tensor([1.0, 2.0, 3.0, 4.0])))
        return array.tolist()

    result = written(lambda tensor: tensor.to("cuda"))
    with torchdevice_mode.redirect(target="cpu"):
        expected = written(lambda tensor: tensor)
    assert result == expected != [0, 1, 2, 3]


FILLS = {
    "zeros": lambda **how: torch.zeros(4, **how),
    "arange": lambda **how: torch.arange(4.0, **how),
    "linspace": lambda **how: torch.linspace(0, 1, 4, **how),
    "randn": lambda **how: torch.randn(4, **how),
    "normal": lambda **how: torch.normal(0.0, 1.0, (4,), **how),
}


@pytest.mark.parametrize(
    "request_",
    [{}, pytest.param({"device": "cuda"}, marks=pytest.mark.off_cuda), {"device": "cpu"}],
    ids=str,
)
@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS)
def test_an_array_is_filled_by_a_factory(redirected, target, fill, request_):
    array = np.full(4, 7.0, dtype=np.float32)
    held, placed = torch.from_numpy(array), ones()
    assert fill(out=held, **request_) is held
    assert fill(out=placed, **request_) is placed
    assert 7.0 not in array.tolist()
    assert (held.device.type, placed.device) == ("cpu", target)


def test_gradients_are_right_where_a_cpu_tensor_is_written_into(redirected, target):
    def gradients(place):
        a = from_numpy(1, 2, 3).requires_grad_()
        b = place(from_numpy(4, 5, 6).requires_grad_())
        b.retain_grad()
        y = a * 2
        y.mul_(b)
        y[b > 4] += b[1:]
        y[:1].copy_(b[:1] * 3)
        y.sum().backward()
        return a.grad, b.grad

    left, placed = gradients(lambda tensor: tensor.to("cuda"))
    assert (left.device.type, placed.device) == ("cpu", target)
    with torchdevice_mode.native():
        expected = gradients(lambda tensor: tensor)
    assert [left.tolist(), placed.tolist()] == [gradient.tolist() for gradient in expected]


def test_a_leaf_is_written_into_under_no_grad_only(redirected):
    leaf = from_numpy(1, 2, 3, 4).requires_grad_()
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        leaf.add_(ones())
    with torch.no_grad():
        leaf.add_(ones())
    assert leaf.tolist() == [2, 3, 4, 5]


def test_history_ends_where_a_cpu_tensor_is_drawn_anew(redirected):
    leaf = from_numpy(1, 2).requires_grad_()
    noise = (leaf * 1).normal_(generator=torch.Generator("cuda"))
    noise.sum().backward()
    assert leaf.grad.tolist() == [0, 0]


def test_a_result_that_torch_resizes_is_resized(redirected):
    values, indices = torch.empty(0, device="cuda"), torch.empty(0, dtype=int)
    with torchdevice_mode.native():
        indices = torch.empty(0, dtype=torch.int64)
    torch.sort(strays()[0], descending=True, out=(values, indices))
    assert values.tolist() == indices.tolist() == [3, 2, 1, 0]
    assert indices.device.type == "cpu"


def test_memory_is_not_shared_with_a_copy(redirected):
    # `set_` makes two tensors of one memory: with a copy it would not.
    with torchdevice_mode.native():
        stray = torch.ones(4)
    if ones().device.type != "cpu":
        with pytest.raises(RuntimeError, match="devices must match"):
            ones().set_(stray)


@pytest.mark.parametrize("policy", ["explicit", "force"])
def test_on_the_cpu_nothing_is_adopted(policy, events):
    with torchdevice_mode.redirect(target="cpu", policy=policy):
        stray, placed = strays()[0], ones()
        assert (placed + stray).tolist() == [1, 2, 3, 4]
        with pytest.raises(RuntimeError, match="must match the size"):
            placed + from_numpy(1, 2, 3)
    assert events("adoption") == 0


@pytest.mark.simulated_mps
def test_an_adoption_is_counted_at_the_users_line(redirected, events):
    stray, placed = strays()[0], ones()
    for _ in range(3):
        placed + stray
    placed * from_numpy(2)[0]  # no dimensions: torch takes it as it is
    assert events("adoption") == 3


@pytest.mark.simulated_mps
def test_plain_torch_refuses_as_ever(redirected):
    stray, placed = strays()[0], ones()
    with torchdevice_mode.native(), pytest.raises(RuntimeError, match="same device"):
        stray + placed


def test_a_call_that_is_wrong_in_two_ways_shows_the_programs_own_error(redirected):
    with pytest.raises(RuntimeError, match="must match the size"):
        ones() + from_numpy(1, 2, 3)


@pytest.mark.simulated_mps
def test_one_call_may_need_two_remedies(redirected, target):
    with pytest.warns(TorchDeviceWarning, match="float64-downcast"):
        result = torch.sum(ones() * strays()[0], dtype=torch.float64)
        same = torch.stack([from_numpy(1.5, dtype=np.float64), torch.ones(1, device="cuda")])
    assert (result.device, result.item()) == (target, 6)
    assert (same.device, same.tolist()) == (target, [[1.5], [1.0]])


class Scaled(torch.autograd.Function):
    """Meets a NumPy array's tensor on the way back."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * from_numpy(1, 2, 3, 4)


def test_strays_are_adopted_in_backward(redirected):
    x = ones().requires_grad_()
    x.register_hook(lambda gradient: gradient + from_numpy(1, 1, 1, 1))
    Scaled.apply(x).sum().backward()
    assert x.grad.tolist() == [2, 3, 4, 5]


def test_a_module_left_on_the_cpu_learns_there(redirected):
    with torchdevice_mode.native():
        layer = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    before = layer.weight.detach().clone()
    layer(ones()).sum().backward()
    optimizer.step()
    assert layer.weight.device.type == "cpu"
    assert (before - layer.weight).flatten().tolist() == pytest.approx([1, 1, 1, 1])

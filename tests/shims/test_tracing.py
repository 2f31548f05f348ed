"""What Dynamo traces under redirection: what plain torch traces, and with CUDA's answers."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from torchdevice_mode import redirect

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("fresh_dynamo")]


def compiled(function, backend="eager"):
    return torch.compile(function, fullgraph=True, backend=backend)


def operations(function, *args):
    """The operations of a function's one graph."""
    found = []

    def note(graph, inputs):
        found.extend(str(node.target) for node in graph.graph.nodes if node.op.startswith("call"))
        return graph.forward

    torch.compile(function, fullgraph=True, backend=note)(*args)
    return found


# --- as plain torch -------------------------------------------------------------------------------


def operators(x):
    return (2 - x) / (1 + x) + 1 / x


def indexing(x):
    y = x.clone()
    y[0] += x[-1]
    return y[None, :2]


def methods(x):
    return x.unflatten(0, (1, 3)).norm() + x.split(1)[0]


def functions(x):
    return torch.nn.functional.softmax(torch.sin(x), dim=0) @ x


def derivatives(x):
    return torch.func.hessian(lambda y: (y**3).sum())(x) + torch.func.jacfwd(torch.sin)(x)


AS_PLAIN = [operators, indexing, methods, functions, derivatives]


@pytest.mark.parametrize("function", AS_PLAIN, ids=lambda f: f.__name__)
def test_what_names_no_device_makes_the_graph_of_plain_torch(function):
    plain = operations(function, torch.arange(1.0, 4.0))
    torch._dynamo.reset()
    with redirect():
        x = torch.arange(1.0, 4.0, device="cuda")
        assert operations(function, x) == plain
        assert torch.equal(compiled(function)(x), function(x))


def test_arrays_are_traced():
    with redirect():
        x = torch.ones(3, device="cuda")
        assert compiled(lambda x: torch.as_tensor(x.numpy() + 1))(x).tolist() == [2.0] * 3


# --- bodies ---------------------------------------------------------------------------------------


def a_condition(x):
    return torch.cond(x.sum() > 3, lambda y: y + torch.ones(3, device="cuda"), torch.cos, (x,))


def a_checkpoint(x):
    return checkpoint(lambda y: y.sin() + torch.ones(3, device="cuda"), x, use_reentrant=False)


def a_checkpoint_in_a_condition(x):
    return torch.cond(x.sum() > 3, a_checkpoint, lambda y: y.to("cuda").clone(), (x,))


def a_mapped_function(x):
    return torch.vmap(lambda y: y + torch.ones((), device="cuda"))(x)


BODIES = [a_condition, a_checkpoint, a_checkpoint_in_a_condition, a_mapped_function]


@pytest.mark.parametrize("function", BODIES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("value", [0.5, 2.0])
def test_devices_are_named_in(function, value, target):
    with redirect():
        x = torch.full((3,), value, device="cuda")
        result = compiled(function)(x)
        assert result.device == target
        assert torch.allclose(result, function(x))


# --- answers --------------------------------------------------------------------------------------


@pytest.mark.off_cuda
@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x.is_cuda,
        lambda x: x.device == torch.device("cuda"),
        lambda x: x.device == torch.device("cuda", 0),
        lambda x: x.device == torch.device(type="cuda", index=0),
        lambda x: x.get_device() == 0,
        lambda x: x.type() == "torch.cuda.FloatTensor",
        lambda x: torch.device("cuda").type == x.device.type,
    ],
    ids=("is_cuda", "device", "index", "keywords", "get_device", "type", "type of device"),
)
def test_a_tensor_is_on_cuda_for_code_that_asks(ask):
    with redirect():
        x = torch.ones(3, device="cuda")
        assert ask(x)
        assert compiled(lambda x: x + 1 if ask(x) else x - 1)(x).tolist() == [2.0] * 3


@pytest.mark.off_cuda
def test_a_device_is_the_target(target):
    with redirect():
        assert compiled(lambda: torch.device("cuda"))() == torch.device(target)
        assert compiled(lambda: torch.device("meta"))() == torch.device("meta")
    torch._dynamo.reset()
    assert compiled(lambda: torch.device("cuda"))() == torch.device("cuda")


def test_redirections_that_decide_differently_do_not_share_code():
    function = compiled(lambda: torch.device("cpu"))
    with redirect():
        forced = function()
        assert forced == torch.ones(1).device
        with redirect(policy="explicit"):
            assert function() == torch.device("cpu", forced.index if forced.type == "cpu" else None)
        assert function() == forced
    assert function() == torch.device("cpu")


# --- modes of others ------------------------------------------------------------------------------


class Doubling(TorchFunctionMode):
    """Another's mode: `sin` gives twice as much."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return result * 2 if func in (torch.sin, torch.Tensor.sin) else result


def sine(x):
    return x.sin() + torch.ones(3, device="cuda")


@pytest.mark.parametrize("inside", [True, False], ids=["above ours", "below ours"])
def test_the_mode_of_another_is_traced_too(inside):
    outer, inner = (redirect(), Doubling()) if inside else (Doubling(), redirect())
    with outer, inner:
        x = torch.ones(3, device="cuda")
        expected = sine(x)
        # With "eager" torch runs the graph under the mode that it has traced already.
        assert torch.allclose(compiled(sine, "aot_eager")(x), expected)
        assert expected[0].item() == pytest.approx(1 + 2 * 0.8414710)


class Tripling(torch.Tensor):
    """Another's tensor: its sine is three times as much."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs or {})
        return result * 3 if func is torch.Tensor.sin else result


def test_the_tensor_of_another_is_traced_as_in_plain_torch():
    def use(x):
        return x.sin() + 1

    plain = operations(use, torch.ones(3).as_subclass(Tripling))
    torch._dynamo.reset()
    with redirect():
        assert operations(use, torch.ones(3, device="cuda").as_subclass(Tripling)) == plain
    assert sum("mul" in operation for operation in plain) == 1

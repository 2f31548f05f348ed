"""What the function mode does with devices: factories, moves, contexts, backward, adoption."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

import torchdevice_mode

FACTORIES = {
    "zeros": lambda **k: torch.zeros(2, **k),
    "ones": lambda **k: torch.ones((2, 2), **k),
    "empty": lambda **k: torch.empty(2, **k),
    "empty_strided": lambda **k: torch.empty_strided((2, 2), (2, 1), **k),
    "full": lambda **k: torch.full((2,), 3.0, **k),
    "arange": lambda **k: torch.arange(3, **k),
    "linspace": lambda **k: torch.linspace(0, 1, 3, **k),
    "logspace": lambda **k: torch.logspace(0, 1, 3, **k),
    "eye": lambda **k: torch.eye(2, **k),
    "rand": lambda **k: torch.rand(2, **k),
    "randn": lambda **k: torch.randn(2, 3, **k),
    "randint": lambda **k: torch.randint(5, (2,), **k),
    "randperm": lambda **k: torch.randperm(4, **k),
    "normal": lambda **k: torch.normal(0.0, 1.0, size=(2,), **k),
    "tensor": lambda **k: torch.tensor([1.0, 2.0], **k),
    "as_tensor": lambda **k: torch.as_tensor([1, 2], **k),
    "asarray": lambda **k: torch.asarray([1, 2], **k),
    "scalar_tensor": lambda **k: torch.scalar_tensor(1.0, **k),
    "tril_indices": lambda **k: torch.tril_indices(2, 2, **k),
    "hann_window": lambda **k: torch.hann_window(4, **k),
    "fftfreq": lambda **k: torch.fft.fftfreq(4, **k),
}
CUDA_1 = pytest.param("cuda:1", marks=pytest.mark.off_cuda)
REQUESTS = ["cuda", CUDA_1, "xpu", "hpu:0", "npu", torch.device("cuda", 0), 0]


@pytest.mark.parametrize("make", FACTORIES.values(), ids=FACTORIES)
@pytest.mark.parametrize("request_", REQUESTS, ids=str)
def test_a_factory_makes_its_tensor_on_the_target(redirected, target, make, request_):
    assert make(device=request_).device == target


@pytest.mark.parametrize("make", FACTORIES.values(), ids=FACTORIES)
@pytest.mark.parametrize("given", [{}, {"device": None}, {"device": "cpu"}], ids=str)
def test_under_force_the_cpu_and_no_device_mean_the_target(redirected, target, make, given):
    assert make(**given).device == target


@pytest.mark.parametrize("make", FACTORIES.values(), ids=FACTORIES)
@pytest.mark.parametrize("given", [{}, {"device": "cpu"}], ids=str)
def test_under_explicit_they_mean_the_cpu(make, given):
    with torchdevice_mode.redirect(policy="explicit"):
        assert make(**given).device.type == "cpu"


@pytest.mark.parametrize("make", FACTORIES.values(), ids=FACTORIES)
def test_meta_stays_meta(redirected, make):
    if make is FACTORIES["as_tensor"] or make is FACTORIES["asarray"]:
        pytest.skip("torch itself reads the data")
    assert make(device="meta").device.type == "meta"


LIKES = {
    "zeros_like": lambda x, **k: torch.zeros_like(x, **k),
    "randn_like": lambda x, **k: torch.randn_like(x, **k),
    "full_like": lambda x, **k: torch.full_like(x, 2, **k),
    "new_zeros": lambda x, **k: x.new_zeros(2, **k),
    "new_tensor": lambda x, **k: x.new_tensor([1.0], **k),
    "new_empty": lambda x, **k: x.new_empty((2,), **k),
}


@pytest.mark.parametrize("make", LIKES.values(), ids=LIKES)
def test_a_likeness_follows_its_tensor_or_the_request(redirected, target, make):
    with torchdevice_mode.native():
        x = torch.zeros(2)
    assert make(x).device.type == "cpu"
    assert make(x, device="cuda").device == target


MOVES = {
    "to string": lambda x: x.to("cuda"),
    "to device": lambda x: x.to(torch.device("cuda:0")),
    "to index": lambda x: x.to(0),
    "to keyword": lambda x: x.to(device="cuda"),
    "to with dtype": lambda x: x.to("cuda", torch.float16),
    "to with keywords": lambda x: x.to("cuda", dtype=torch.float32, non_blocking=True, copy=True),
    "to with position": lambda x: x.to("cuda", torch.float32, True, True),
    "cuda": lambda x: x.cuda(),
    "cuda index": lambda x: x.cuda(0),
    "cuda device": lambda x: x.cuda(device="cuda:0", non_blocking=True),
    "cuda device made before": lambda x: x.cuda(torch.device("cuda", 0)),
    "cuda of a tensor": lambda x: x.cuda(torch.zeros(1, device="cuda").device, True),
    "cuda position": lambda x: x.cuda(0, True),
    "type name": lambda x: x.type("torch.cuda.FloatTensor"),
    "to other": lambda x: x.to(torch.zeros(1, device="cuda")),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_a_move_goes_to_the_target(redirected, target, move):
    with torchdevice_mode.native():
        x = torch.arange(3.0)
    moved = move(x)
    assert moved.device == target
    assert moved.tolist() == [0, 1, 2]


def test_a_move_to_where_the_tensor_is_returns_it(redirected):
    x = torch.zeros(2, device="cuda")
    assert x.cuda() is x
    assert x.to("cuda") is x
    assert x.to("cuda", torch.float32) is x
    assert x.pin_memory() is x


def test_a_move_that_names_no_device_stays(redirected):
    with torchdevice_mode.native():
        x = torch.zeros(2)
    assert x.to(torch.float16).device.type == "cpu"
    assert x.to(x).device.type == "cpu"


@pytest.mark.parametrize(
    "move",
    [
        lambda m: m.cuda(),
        lambda m: m.cuda(0),
        lambda m: m.cuda(torch.device("cuda")),
        lambda m: m.to("cuda"),
        lambda m: m.to(0),
        lambda m: m.to("npu"),
        lambda m: m.to(device="cuda:0", dtype=torch.float32, non_blocking=True),
        lambda m: m.to("cuda", torch.float32, True),
        lambda m: m.to_empty(device="cuda"),
    ],
)
def test_a_module_moves_and_keeps_its_parameters(target, move):
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    parameter = module[0].weight
    with torchdevice_mode.redirect():
        assert move(module) is module
        assert {t.device for t in module.state_dict().values()} == {target}
        assert module[0].weight is parameter or target.type != "cpu"


def test_layers_are_made_on_the_target_by_default_and_on_request(redirected, target):
    for given in ({}, {"device": "cuda"}, {"device": "cpu"}):
        layer = torch.nn.Conv2d(1, 1, 1, **given)
        assert layer.weight.device == target
        assert torch.nn.BatchNorm2d(1, **given).num_batches_tracked.device == target


# --- torch.device ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        # A machine with CUDA leaves these as they are, without an index or with its own check.
        pytest.param(("cuda",), marks=pytest.mark.off_cuda),
        pytest.param(("cuda:1",), marks=pytest.mark.off_cuda),
        ("cuda", 0),
        (0,),
        ("npu",),
    ],
    ids=str,
)
def test_a_device_built_under_redirection_is_the_target(redirected, target, arguments):
    assert torch.device(*arguments) == target
    assert torch.zeros(1, device="cuda").device == torch.device(*arguments)


@pytest.mark.off_cuda
def test_a_device_by_keyword(redirected, target):
    assert torch.device(type="cuda", index=1) == target
    assert torch.device("cuda", index=0) == target


@pytest.mark.parametrize(
    "arguments",
    [
        ("cuda:x",),
        ("cudaa",),
        ("",),
        (-1,),
        (True,),
        ("cuda", -1),
        ("cuda:1", 1),
        (None,),
        (),
        ([],),
    ]
    + [("cpu:-2",), ({},), ("cuda", "x")],
    ids=str,
)
def test_what_is_no_device_gets_torchs_own_error(redirected, arguments):
    with torchdevice_mode.native(), pytest.raises((RuntimeError, TypeError)) as plain:
        torch.device(*arguments)
    with pytest.raises(type(plain.value)) as redirected_error:
        torch.device(*arguments)
    assert str(redirected_error.value) == str(plain.value)


@pytest.mark.parametrize("request_", ["cuda:x", "cpu:-2", "cudaa", {}, 1.5, True, []], ids=repr)
def test_a_bad_device_argument_gets_torchs_own_error(redirected, request_):
    for call in (
        lambda: torch.zeros(1, device=request_),
        lambda: torch.ones(1).to(device=request_),
        lambda: torch.nn.Linear(1, 1).to(device=request_),
    ):
        with torchdevice_mode.native(), pytest.raises(Exception) as plain:
            call()
        with pytest.raises(type(plain.value)) as redirected_error:
            call()
        assert str(redirected_error.value) == str(plain.value)


def test_the_toggle_turns_the_override_on_and_off(redirected, target):
    assert torch.zeros(1, device="cpu:-1").device.type == "cpu"
    assert torch.zeros(1).device.type == "cpu"
    assert torch.zeros(1, device="cpu").device.type == "cpu"
    assert torch.zeros(1, device="cuda").device == target
    assert torch.device("cpu", -1).type == "cpu"
    assert torch.zeros(1).device == target


def test_the_override_as_a_block_nests(redirected, target):
    with torchdevice_mode.cpu_override():
        with torchdevice_mode.cpu_override():
            assert torch.zeros(1).device.type == "cpu"
        assert torch.zeros(1).device.type == "cpu"
        assert torch.zeros(1, device="cuda").device == target
    assert torch.zeros(1).device == target


# --- contexts and generators ----------------------------------------------------------------


@pytest.mark.parametrize("enter_first", ["context", "redirection"])
def test_a_device_context_is_honoured_through_the_policy(target, enter_first):
    with torchdevice_mode.redirect(), torch.device("cuda"):
        assert torch.zeros(1).device == target
    if enter_first == "context":
        with torch.device("meta"), torchdevice_mode.redirect():
            assert torch.zeros(1).device.type == "meta"
            assert torch.nn.Linear(1, 1).weight.device.type == "meta"
    else:
        with torchdevice_mode.redirect(), torch.device("meta"):
            assert torch.zeros(1).device.type == "meta"
            assert torch.zeros(1, device="cuda").device == target


def test_the_default_device_is_honoured_through_the_policy(redirected, target):
    torch.set_default_device("cuda")
    try:
        assert torch.zeros(1).device == target
        assert torch.get_default_device() == target
    finally:
        torch.set_default_device(None)


def test_a_generator_decides_where_no_device_is_named(redirected, target):
    generator = torch.Generator("cuda").manual_seed(0)
    assert generator.device == target
    assert torch.rand(2, generator=generator).device == target
    with torchdevice_mode.native():
        on_cpu = torch.Generator().manual_seed(0)
    assert torch.randperm(4, generator=on_cpu).device.type == "cpu"


def test_torchs_own_requests_are_left_alone(redirected, target):
    parameter = torch.nn.Parameter(torch.ones(2, device="cuda"))
    optimizer = torch.optim.Adam([parameter])
    parameter.sum().backward()
    optimizer.step()
    state = optimizer.state[parameter]
    assert state["step"].device.type == "cpu"
    assert state["exp_avg"].device == target
    lengths = torch.nn.utils.rnn.pack_padded_sequence(
        torch.zeros(2, 3, 1, device="cuda"), [3, 2], batch_first=True
    ).batch_sizes
    assert lengths.device.type == "cpu"
    assert list(torch.utils.data.RandomSampler(range(3))) != []


def test_distributions_are_made_for_the_user(redirected, target):
    assert torch.distributions.Normal(0.0, 1.0).sample((2,)).device == target


# --- autograd -------------------------------------------------------------------------------


class Doubled(torch.autograd.Function):
    """Names CUDA in its forward and in its backward."""

    @staticmethod
    def forward(ctx, x):
        return x * torch.full((1,), 2.0, device="cuda")

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.full((1,), 2.0, device="cuda")


@pytest.mark.parametrize("how", ["backward", "autograd.backward", "grad"])
def test_custom_backward_and_hooks_are_redirected(redirected, how):
    x = torch.ones(3, device="cuda", requires_grad=True)
    x.register_hook(lambda gradient: gradient + torch.ones(1, device="cuda"))
    loss = Doubled.apply(x).sum()
    if how == "backward":
        loss.backward()
        gradient = x.grad
    elif how == "autograd.backward":
        torch.autograd.backward(loss)
        gradient = x.grad
    else:
        (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.tolist() == [3, 3, 3]


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_recomputes_under_redirection(redirected, reentrant):
    calls = []

    def block(x):
        calls.append(torch.zeros(1, device="cuda").device)
        return x * torch.full((1,), 3.0, device="cuda")

    x = torch.ones(2, device="cuda", requires_grad=True)
    checkpoint(block, x, use_reentrant=reentrant).sum().backward()
    assert len(calls) == 2
    assert x.grad.tolist() == [3, 3]


# --- the host -------------------------------------------------------------------------------


def test_numpy_works_from_any_device(redirected):
    x = torch.arange(3.0, device="cuda")
    assert x.numpy().tolist() == [0, 1, 2]
    assert x.cpu().numpy().tolist() == [0, 1, 2]
    assert np.asarray(x).tolist() == [0, 1, 2]
    assert x.tolist() == [0, 1, 2]
    assert torch.ones(1, device="cuda").item() == 1


def test_a_cuda_tensor_says_that_it_is_one(redirected):
    x = torch.zeros(1, device="cuda")
    assert x.is_cuda
    assert x.get_device() == 0


# --- adoption -------------------------------------------------------------------------------


@pytest.fixture
def stray():
    """A CPU tensor, as NumPy hands it over."""
    return torch.from_numpy(np.arange(4.0, dtype=np.float32))


@pytest.fixture
def placed(redirected):
    return torch.ones(4, device="cuda")


ADOPTED = {
    "add": lambda s, p: s + p,
    "radd": lambda s, p: p + s,
    "cat": lambda s, p: torch.cat([p, s]),
    "stack": lambda s, p: torch.stack([s, p]),
    "where": lambda s, p: torch.where(s > 1, p, p * 2),
    "index": lambda s, p: p[s.long()],
    "mask": lambda s, p: p[s > 1],
    "matmul": lambda s, p: s @ p,
    "linear": lambda s, p: torch.nn.functional.linear(p, s.reshape(1, 4)),
    "mse_loss": lambda s, p: torch.nn.functional.mse_loss(p, s),
    "cross_entropy": lambda s, p: torch.nn.functional.cross_entropy(p, (s / 4)),
    "embedding": lambda s, p: torch.nn.functional.embedding(s.long(), p.reshape(4, 1)),
    "gather": lambda s, p: torch.gather(p, 0, s.long()),
    "index_select": lambda s, p: torch.index_select(p, 0, s.long()),
}


@pytest.mark.parametrize("call", ADOPTED.values(), ids=ADOPTED)
def test_a_stray_cpu_tensor_is_adopted(stray, placed, target, call):
    result = call(stray, placed)
    assert result.device == target
    with torchdevice_mode.native():
        torch.testing.assert_close(result.cpu(), call(stray, torch.ones(4)))


WRITES = {
    "add_": lambda s, p: s.add_(p),
    "iadd": lambda s, p: s.__iadd__(p),
    "setitem": lambda s, p: s.__setitem__(slice(None), p),
    "setitem mask": lambda s, p: s.__setitem__(p > 0, 5.0),
    "copy_": lambda s, p: s.copy_(p),
    "out": lambda s, p: torch.add(p, p, out=s),
    "masked_fill_": lambda s, p: s.masked_fill_(p > 0, 7.0),
    "index_add_": lambda s, p: s.index_add_(0, torch.arange(4, device="cuda"), p),
}


@pytest.mark.parametrize("call", WRITES.values(), ids=WRITES)
def test_a_call_that_writes_into_a_cpu_tensor_changes_that_very_tensor(stray, placed, call):
    address = stray.data_ptr()
    with torchdevice_mode.native():
        expected = torch.arange(4.0)
        call(expected, torch.ones(4)) if call is not WRITES["index_add_"] else expected.add_(1)
    call(stray, placed)
    assert stray.device.type == "cpu"
    assert stray.data_ptr() == address
    assert stray.tolist() == expected.tolist()


def test_a_call_that_writes_into_an_accelerator_tensor_changes_that_one(stray, placed):
    same = placed
    placed += stray
    assert placed is same
    assert placed.tolist() == [1, 2, 3, 4]
    torch.add(stray, stray, out=placed)
    assert placed.tolist() == [0, 2, 4, 6]


def test_gradients_flow_through_an_adoption(placed):
    with torchdevice_mode.native():
        weight = torch.ones(4, requires_grad=True)
    (placed * weight).sum().backward()
    assert weight.grad.tolist() == [1, 1, 1, 1]
    assert weight.grad.device.type == "cpu"


def test_an_error_that_is_the_programs_own_passes_unchanged(redirected):
    with pytest.raises(RuntimeError, match="must match the size"):
        torch.zeros(2, device="cuda") + torch.zeros(3, device="cuda")


# --- below the function mode ----------------------------------------------------------------


def test_torch_ops_are_redirected(redirected, target):
    assert torch.ops.aten.zeros.default([2], device=torch.device("cuda")).device == target
    with torchdevice_mode.native():
        cuda = torch.device("cuda")
    assert torch.ops.aten.zeros.default([2], device=cuda).device == target
    assert torch.ops.aten.zeros([2], device=cuda).device == target


def test_a_device_made_outside_is_redirected_inside(target):
    cuda = torch.device("cuda:0")
    with torchdevice_mode.redirect():
        assert torch.zeros(2, device=cuda).device == target
        assert torch.ones(1).to(cuda).device == target


@pytest.mark.parametrize("dispatch", ["auto", "always"])
def test_torchscript_with_a_device_baked_in_runs(dispatch, target):
    source = "def f():\n    return torch.zeros([2], device=torch.device('cuda:0')) + 1\n"
    script = torch.jit.CompilationUnit(source)
    with torchdevice_mode.redirect(dispatch=dispatch):
        assert script.f().device == target


def test_the_same_numbers_are_drawn_by_the_same_seed(redirected):
    torch.manual_seed(3)
    first = torch.rand(4, device="cuda").tolist()
    torch.manual_seed(3)
    assert torch.rand(4, device="cuda").tolist() == first


@pytest.mark.parametrize("dispatch", ["auto", "always"])
def test_a_scripted_module_with_a_device_baked_in_runs(dispatch, target):
    class Adder(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.ones([1], device="cuda:0").to(x.dtype)

    scripted = torch.jit.script(Adder())
    with torchdevice_mode.redirect(dispatch=dispatch):
        assert scripted(torch.ones(2, device="cuda")).tolist() == [2, 2]


def test_the_shim_answers_in_backward_also_in_the_engines_threads(redirected):
    seen = []

    class Asks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            seen.append(torch.cuda.is_available())
            return gradient

    x = torch.ones(2, device="cuda", requires_grad=True)
    Asks.apply(x).sum().backward()
    assert seen == [True]
    x.record_stream(torch.cuda.current_stream())


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.empty(2, pin_memory=True),
        lambda: torch.zeros(2, device="cpu", pin_memory=True),
        lambda: torch.tensor([1.0], pin_memory=True),
        lambda: torch.empty_like(torch.ones(2), pin_memory=True),
        lambda: torch.ones(2).new_empty(2, pin_memory=True),
    ],
    ids=["empty", "zeros", "tensor", "empty_like", "new_empty"],
)
def test_memory_is_not_pinned_where_none_can_be(redirected, make, target):
    assert make().device == target and not make().is_pinned()

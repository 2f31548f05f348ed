"""The modes, tensor subclasses and tools of others work under redirection as under plain torch."""

from __future__ import annotations

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile, record_function, schedule
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from torchdevice_mode import native, redirect

pytestmark = pytest.mark.filterwarnings("ignore")


def ones(*shape):
    return torch.ones(*shape, device="cuda")


# --- torch's own modes and transforms -------------------------------------------------------------


def test_fake_tensors_are_on_the_target(redirected, target):
    mode = FakeTensorMode()
    fake = mode.from_tensor(ones(2, 3))
    with mode:
        linear = nn.Linear(3, 4, device="cuda")
        result = linear(fake + ones(3))
        assert (type(result).__name__, result.device, result.shape) == (
            "FakeTensor",
            target,
            (2, 4),
        )
        result.sum().backward()
        assert linear.weight.grad.shape == (4, 3)


def test_writes_are_made_functional(redirected):
    def write(x):
        return x.clone().add_(ones(3))

    assert torch.func.functionalize(write)(ones(3)).tolist() == [2.0] * 3


def cube(x):
    return (x**3).sum() * ones(())


TRANSFORMS = {
    "vmap": lambda x: torch.vmap(lambda row: row + ones(3))(x),
    "vmap with random numbers": lambda x: torch.vmap(
        lambda row: row + 0 * torch.rand(3, device="cuda"), randomness="different"
    )(x),
    "grad": torch.func.grad(cube),
    "jacrev": torch.func.jacrev(cube),
    "jacfwd": torch.func.jacfwd(cube),
    "hessian": torch.func.hessian(cube),
    "jvp": lambda x: torch.func.jvp(cube, (x,), (ones(2, 3),))[1],
    "vjp": lambda x: torch.func.vjp(cube, x)[1](ones(()))[0],
    "linearize": lambda x: torch.func.linearize(cube, x)[1](ones(2, 3)),
    "functional hessian": lambda x: torch.autograd.functional.hessian(cube, x),
    "functional_call": lambda x: torch.func.functional_call(
        nn.Linear(3, 1, device="cuda"), {"weight": ones(1, 3), "bias": ones(1)}, (x,)
    ),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_transform_gives_what_it_gives_on_the_cpu(transform, target):
    data = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    with redirect():
        result = transform(torch.tensor(data, device="cuda"))
        assert result.device == target
        result = result.detach().cpu().tolist()
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setitem(globals(), "ones", torch.ones)
        rand = torch.rand
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(
            torch, "rand", lambda *size, device: rand(*size)
        )
        linear = nn.Linear
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(
            nn, "Linear", lambda *sizes, device: linear(*sizes)
        )
        expected = transform(torch.tensor(data)).detach().tolist()
    assert torch.allclose(torch.tensor(result), torch.tensor(expected))


def test_forward_derivatives(redirected):
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(ones(3), ones(3))
        tangent = torch.autograd.forward_ad.unpack_dual((dual * ones(3)).sin()).tangent
    assert torch.allclose(tangent, ones(3).cos())


def test_operations_are_counted():
    def count(device):
        # No linear layer: on MPS torch does not count its backward pass.
        first, second = torch.ones(4, 8, device=device), torch.ones(8, 2, device=device)
        with FlopCounterMode(display=False) as counter:
            (first.requires_grad_() @ second).relu().sum().backward()
        return counter.get_total_flops()

    with redirect():
        counted = count("cuda")
    assert counted == count("cpu") > 0


@pytest.mark.parametrize("kind", ["real", "fake", "symbolic"])
def test_a_function_is_traced_to_a_graph(redirected, target, kind):
    graph = make_fx(lambda x: x + ones(3), tracing_mode=kind)(ones(3))
    assert graph(ones(3)).tolist() == [2.0] * 3
    assert graph(ones(3)).device == target


# --- modes of users -------------------------------------------------------------------------------


class Calls(TorchFunctionMode):
    def __init__(self):
        self.noted = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.noted.append((func.__name__, str((kwargs or {}).get("device"))))
        return func(*args, **(kwargs or {}))


def test_a_function_mode_above_ours_sees_what_the_program_asked(target):
    with redirect(), Calls() as calls:
        assert ones(3).device == target
        assert torch.zeros(3).device == torch.zeros(3, device="cuda").device
    assert ("ones", "cuda") in calls.noted and ("zeros", "None") in calls.noted


def test_a_function_mode_below_ours_sees_what_it_got(target):
    with Calls() as calls, redirect():
        ones(3)
    assert ("ones", str(target)) in calls.noted


def test_a_call_is_counted_where_the_program_makes_it_and_not_in_a_mode(events):
    with redirect(), torch.device("cuda"), Calls():
        before = events("redirection")
        torch.ones(3, device="cuda:0")
        assert events("redirection") == before + 1


@pytest.mark.off_cuda
def test_a_tensor_is_on_cuda_in_a_context_of_a_device(redirected):
    with torch.device("cuda"):
        assert nn.Linear(3, 3).weight.is_cuda
        assert torch.ones(1).get_device() == 0
    torch.set_default_device("cuda")
    try:
        assert torch.ones(1).is_cuda
    finally:
        torch.set_default_device(None)


class Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.noted = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.noted.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dispatch", ["auto", "always"])
@pytest.mark.parametrize("above", [True, False], ids=["above ours", "below ours"])
def test_a_dispatch_mode_sees_the_operators_of_plain_torch(dispatch, above):
    def step(device):
        x = torch.ones(3, device=device, requires_grad=True)
        for _ in range(2):  # the first backward pass at a line is watched
            (x.sin() * torch.ones(3, device=device)).sum().backward()

    mode = Operators()
    order = (redirect(dispatch=dispatch), mode) if above else (mode, redirect(dispatch=dispatch))
    with order[0], order[1]:
        step("cuda")
    with native(), Operators() as plain:
        step("cpu")
    arithmetic = {"sin", "mul", "sum", "cos", "expand", "add_"}
    assert [n for n in mode.noted if n in arithmetic] == [n for n in plain.noted if n in arithmetic]


# --- tensors of users -----------------------------------------------------------------------------


class Noting(torch.Tensor):
    noted = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.noted.append(func.__name__)
        return super().__torch_function__(func, types, args, kwargs or {})


def test_a_tensor_that_notes_functions_moves_and_differentiates(redirected, target):
    x = torch.ones(3).as_subclass(Noting).cuda()
    assert (type(x), x.device) == (Noting, target)
    y = x.to("cuda").requires_grad_() * ones(3)
    y.sum().backward()
    assert type(y) is Noting and {"to", "mul", "backward"} <= set(Noting.noted)


class Wrapper(torch.Tensor):
    """Holds another tensor, and works on that."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            dtype=held.dtype,
            device=held.device,
            requires_grad=held.requires_grad,
        )

    def __init__(self, held):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        args, kwargs = tree_map(lambda x: x.held if isinstance(x, cls) else x, (args, kwargs or {}))
        result = func(*args, **kwargs)
        return tree_map(lambda x: cls(x) if isinstance(x, torch.Tensor) else x, result)


@pytest.mark.parametrize("wrap", [Wrapper, lambda x: TwoTensor(x, x)], ids=["Wrapper", "TwoTensor"])
def test_a_tensor_that_holds_others_moves_and_differentiates(redirected, target, wrap):
    x = wrap(torch.ones(3)).cuda()
    assert x.device == target
    x = wrap(ones(3)).requires_grad_()
    for _ in range(2):
        (x * ones(3)).sum().backward()
    assert type(x.grad) is type(x) and x.grad.device == target


def test_a_tensor_that_holds_others_is_compiled(redirected):
    torch._dynamo.reset()
    x = TwoTensor(ones(3), ones(3))
    result = torch.compile(lambda x: x * 2 + ones(3), backend="aot_eager", fullgraph=True)(x)
    assert type(result) is TwoTensor and result.b.tolist() == [3.0] * 3


def test_ragged_tensors(redirected, target):
    parts = [torch.ones(2, 3), torch.ones(4, 3)]
    x = torch.nested.nested_tensor(parts, layout=torch.jagged, device="cuda", requires_grad=True)
    F.linear(x, ones(5, 3)).values().sum().backward()
    assert x.device == target and x.grad.values().shape == (6, 3)
    assert torch.nested.nested_tensor(parts, layout=torch.jagged).cuda().device == target


def test_quantised_tensors(redirected):
    x = torch.quantize_per_tensor(ones(3), 0.5, 0, torch.qint8)
    assert x.int_repr().tolist() == [2, 2, 2]
    assert (x.dequantize() + ones(3)).tolist() == [2.0] * 3
    model = nn.Sequential(nn.Linear(4, 4))
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert torch.allclose(quantised(ones(2, 4)), model(ones(2, 4)), atol=0.1)


# --- hooks, recomputation and checks in the backward pass -----------------------------------------


def test_hooks_and_recomputation_name_cuda(redirected, target):
    linear, seen = nn.Linear(3, 3).cuda(), []
    for parameter in linear.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad + ones(1)))
    linear.register_full_backward_hook(lambda *_: seen.append(ones(1)))
    for reentrant in (True, False):
        x = ones(2, 3).requires_grad_()
        checkpoint(lambda x: linear(x) + ones(3), x, use_reentrant=reentrant).sum().backward()
        assert x.grad.device == target
    assert len(seen) == 6 and {x.device for x in seen} == {target}


def test_anomalies_are_found(redirected):
    x = ones(3).requires_grad_()
    with torch.autograd.detect_anomaly():
        (x * 2).sum().backward()
        with pytest.raises(RuntimeError, match="returned nan values"):
            (x.sqrt() * 0 - 1).sqrt().sum().backward()


@pytest.mark.parametrize("fast", [True, False])
def test_gradients_are_checked(redirected, fast):
    """In its fast mode torch draws vectors of its own, inside `with torch.device("cpu")`."""
    x = ones(3, 4).requires_grad_()
    tolerances = {"eps": 1e-2, "atol": 1e-2, "rtol": 1e-2}
    assert torch.autograd.gradcheck(torch.sin, (x,), fast_mode=fast, **tolerances)


def test_deterministic_algorithms(redirected):
    torch.use_deterministic_algorithms(True)
    try:
        x = ones(3, 3).requires_grad_()
        (x @ x).index_add(0, torch.tensor([0, 1], device="cuda"), ones(2, 3)).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert x.grad.tolist() == [[6.0] * 3] * 3


# --- tools ----------------------------------------------------------------------------------------


def test_tensors_are_compared(redirected):
    torch.testing.assert_close(ones(3), ones(3))
    torch.testing.assert_close(ones(3), torch.testing.make_tensor(3, device="cuda", low=1, high=1.1,
                               dtype=torch.float32), atol=0.2, rtol=0)  # fmt: skip
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(ones(3), ones(3) + 1)


@pytest.mark.parametrize(
    "activities",
    [[ProfilerActivity.CPU, ProfilerActivity.CUDA], [ProfilerActivity.CUDA], None],
    ids=["both", "CUDA", "default"],
)
def test_a_profile_of_cuda_counts_what_runs(redirected, tmp_path, activities):
    with profile(activities=activities, record_shapes=True, profile_memory=True) as profiled:
        with record_function("a step"):
            (ones(2, 3) @ ones(3, 2)).sum()
    for key in ("cuda_time_total", "self_cuda_time_total", "cpu_time_total", "count"):
        assert "a step" in profiled.key_averages().table(sort_by=key)
    profiled.export_chrome_trace(str(tmp_path / "trace.json"))
    assert "aten::mm" in (tmp_path / "trace.json").read_text()


def test_a_profile_follows_its_schedule(redirected):
    tables = []
    with profile(
        activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA],
        schedule=schedule(wait=1, warmup=1, active=2, repeat=1),
        on_trace_ready=lambda p: tables.append(p.key_averages().table(sort_by="cuda_time_total")),
    ) as profiled:
        for _ in range(5):
            ones(3).sum()
            profiled.step()
    assert len(tables) == 1


@pytest.mark.off_cuda
def test_the_profiler_says_that_it_knows_cuda():
    with redirect():
        assert ProfilerActivity.CUDA in torch.profiler.supported_activities()
    assert (ProfilerActivity.CUDA in torch.profiler.supported_activities()) == (
        ProfilerActivity.CUDA in torch.autograd._supported_activities()
    )

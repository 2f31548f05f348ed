"""float64 and complex128 on a target without them: cast down, kept on the CPU, or refused.

Metal's refusals come from the simulated device, so much here runs in the simulated run only.
"""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import numpy as np
import pytest
import torch

import torchdevice_mode
from torchdevice_mode import simulate
from torchdevice_mode._dtypes import NARROWER
from torchdevice_mode._log import forget_warnings
from torchdevice_mode.errors import TorchDeviceWarning


@pytest.fixture(autouse=True)
def warnings_are_said_anew():
    forget_warnings()


WIDE = np.arange(3.0)
MORE = np.linspace(0, 1, 4)


def ones(**options):
    return torch.ones(4, device="cuda", **options)


def doubles(*values):
    return torch.tensor(values or [1.0, 2.0], dtype=torch.float64, device="cuda")


DOUBLES = {
    "factory": lambda: torch.arange(3, dtype=torch.float64, device="cuda"),
    "factory without a device": lambda: torch.arange(3, dtype=torch.double),
    "linspace": lambda: torch.linspace(0, 2, 3, dtype=torch.float64),
    "tensor of an array": lambda: torch.tensor(WIDE, device="cuda"),
    "as_tensor of an array": lambda: torch.as_tensor(WIDE, device="cuda"),
    "as_tensor without a device": lambda: torch.as_tensor(WIDE),
    "new_tensor": lambda: torch.ones(1, device="cuda").new_tensor([0, 1, 2], dtype=torch.float64),
    "to a device": lambda: torch.from_numpy(WIDE).to("cuda"),
    "to by keywords": lambda: torch.arange(3).to(device="cuda", dtype=torch.float64),
    "cuda": lambda: torch.from_numpy(WIDE).cuda(),
    "to a dtype": lambda: torch.arange(3, device="cuda").to(torch.float64),
    "double": lambda: torch.arange(3, device="cuda").double(),
    "type": lambda: torch.arange(3, device="cuda").type(torch.float64),
    "type by name": lambda: torch.arange(3, device="cuda").type("torch.cuda.DoubleTensor"),
    "cumsum": lambda: torch.tensor([0.0, 1, 1], device="cuda").cumsum(0, dtype=torch.float64),
    "softmax": lambda: (
        torch.nn.functional.softmax(torch.zeros(3, device="cuda"), 0, dtype=torch.float64)
        * torch.tensor([0.0, 3, 6], device="cuda")
    ),
    "adoption": lambda: torch.zeros(3, device="cuda") + torch.from_numpy(WIDE),
    "type of a class": lambda: torch.arange(3, device="cuda").type(torch.cuda.DoubleTensor),
    "tensor type": lambda: torch.cuda.DoubleTensor([0, 1, 2]),
    "index as a device": lambda: torch.arange(3, dtype=torch.float64, device=0),
    "index of a move": lambda: torch.from_numpy(WIDE).to(0),
    "index and dtype": lambda: torch.arange(3, device="cuda").to(0, torch.float64),
    "frombuffer": lambda: torch.frombuffer(bytearray(WIDE.tobytes()), dtype=torch.float64).cuda(),
    "sum": lambda: torch.eye(3, device="cuda").sum(0, dtype=torch.float64) * torch.arange(3).cuda(),
}


# What a CUDA program does with float64: the numbers are those of plain torch, in every mode.
USES = {
    "NumPy scalar times tensor": lambda: np.float64(2) * ones(),
    "tensor times NumPy scalar": lambda: ones().double() * np.float64(2),
    "tensor of a NumPy scalar": lambda: torch.tensor(np.float64(2.5), device="cuda"),
    "NumPy bounds": lambda: ones().double().clamp(np.float64(0.1), np.float64(0.9)),
    "finfo of a tensor": lambda: (ones().double() + torch.finfo(ones().double().dtype).eps).round(),
    "promotion": lambda: ones() + doubles(1, 2, 3, 4),
    "promotion of integers": lambda: torch.arange(3, device="cuda") * doubles(0.5)[0],
    "promotion by number": lambda: torch.float_power(ones(), 2),
    "promotion by a CPU scalar": lambda: torch.arange(2).cuda() * torch.from_numpy(np.array(0.5)),
    "promotion in cat": lambda: torch.cat([ones(), torch.from_numpy(MORE)]),
    "loss": lambda: torch.nn.functional.mse_loss(ones(), ones() * 2).double().mean(),
    "softmax": lambda: torch.nn.functional.softmax(ones(), 0, dtype=torch.float64),
    "norm": lambda: torch.linalg.vector_norm(ones(), dtype=torch.float64),
    "logspace": lambda: torch.logspace(0, 1, 5, dtype=torch.float64, device="cuda"),
    "vander": lambda: torch.vander(torch.from_numpy(MORE).cuda()),
    "window": lambda: torch.signal.windows.gaussian(4, dtype=torch.float64, device="cuda"),
    "solve": lambda: torch.linalg.solve(torch.eye(2, device="cuda").double() * 2, doubles()),
    "cholesky": lambda: torch.linalg.cholesky(torch.eye(2, device="cuda").double() * 2),
    "eigenvalues": lambda: torch.linalg.eigvals(torch.diag(doubles())),
    "fft": lambda: torch.fft.fft(doubles(1, 2, 3, 4)),
    "polar": lambda: torch.polar(doubles(), doubles()),
    "complex": lambda: torch.complex(doubles(), doubles()) * 2,
    "log_prob": lambda: torch.distributions.Normal(doubles(0, 0), doubles(1, 2)).log_prob(
        doubles(1, 1)
    ),
    "covariance": lambda: torch.distributions.MultivariateNormal(
        doubles(0, 0), torch.eye(2, dtype=torch.float64, device="cuda")
    ).log_prob(doubles(1, 1)),
    "rotary embedding": lambda: (
        torch.outer(
            torch.arange(4, device="cuda"),
            1 / 10000 ** (torch.arange(0, 8, 2, dtype=torch.float64, device="cuda") / 8),
        )
        .cos()
        .float()
    ),
    "rotary embedding by complex numbers": lambda: torch.view_as_real(
        torch.view_as_complex(torch.ones(4, 2, device="cuda").double())
        * torch.polar(ones().double(), torch.arange(4, device="cuda").double())
    ).type_as(ones()),
    "type_as": lambda: ones().type_as(doubles()),
    "into the likeness": lambda: ones().to(doubles()),
    "new_zeros": lambda: ones().new_zeros(3, dtype=torch.float64),
    "search": lambda: torch.searchsorted(torch.from_numpy(MORE).cuda(), ones()),
    "index": lambda: torch.from_numpy(MORE).cuda()[torch.tensor([0, 1], device="cuda")],
    "integer and boolean indices": lambda: torch.from_numpy(MORE).cuda()[
        torch.tensor([True, False, True, True], device="cuda")
    ][torch.tensor([2, 0], device="cuda")],
    "weights of counts": lambda: torch.bincount(
        torch.tensor([0, 1, 1], device="cuda"), weights=doubles(0.5, 0.5, 0.5)
    ),
    "integer sums": lambda: torch.arange(5, device="cuda").cumsum(0),
    "loaded": lambda: next(
        iter(torch.utils.data.DataLoader([{"x": MORE}, {"x": MORE}], batch_size=2))
    )["x"].cuda(),
    "loaded numbers": lambda: next(iter(torch.utils.data.DataLoader([0.5, 1.5], 2))).cuda(),
    "copied": lambda: copy.deepcopy(doubles()),
    "pickled": lambda: pickle.loads(pickle.dumps(doubles())),
    "random, with a generator": lambda: torch.rand(
        3, dtype=torch.float64, device="cuda", generator=torch.Generator("cuda").manual_seed(1)
    ).floor(),
    "vectorised": lambda: torch.func.vmap(lambda x: x.double() * 2)(ones()),
    "differentiated": lambda: torch.func.grad(lambda x: (x.double() ** 2).sum())(ones()),
    "jacobian": lambda: torch.autograd.functional.jacobian(lambda x: x**2, doubles()),
    "operator": lambda: torch.ops.aten._to_copy(ones(), dtype=torch.float64),
    "operator that makes": lambda: torch.ops.aten.zeros([2], dtype=torch.float64, device="cuda"),
    "number": lambda: torch.tensor([doubles().sum().item(), *doubles().tolist()]),
    "array": lambda: torch.from_numpy(np.sin(doubles().cpu().numpy())),
}


def plainly(call):
    with torchdevice_mode.redirect(target="cpu"):
        return call()


def assert_equal(found, expected):
    """The same numbers to the last digit, wherever they are."""
    with torchdevice_mode.native():
        assert found.dtype is expected.dtype
        assert torch.equal(found.cpu(), expected)


def assert_close(found, expected):
    """The same numbers but for float32's rounding, wherever they are."""
    with torchdevice_mode.native():
        assert found.dtype in (expected.dtype, NARROWER.get(expected.dtype))
        torch.testing.assert_close(
            found.cpu().to(expected.dtype), expected, rtol=1e-5, atol=1e-5, check_device=False
        )


@pytest.mark.simulated_mps
@pytest.mark.filterwarnings("ignore::torchdevice_mode.TorchDeviceWarning")
@pytest.mark.parametrize("call", USES.values(), ids=USES)
def test_a_program_gets_its_numbers_as_exactly_as_the_setting_says(redirected, call):
    expected = plainly(call)
    assert_close(call(), expected)
    with torchdevice_mode.redirect(float64="cpu"):
        exact = call()
    assert_equal(exact, expected)


# Each is given a float64 tensor of the program's own, on the CPU, and one on the target.
WRITES = {
    "copy_": lambda wide, x: wide.copy_(x),
    "copy_ from float64": lambda wide, x: x.copy_(wide),
    "add_": lambda wide, x: wide.add_(x),
    "add_ of float64": lambda wide, x: x.add_(wide),
    "operator": lambda wide, x: x.__iadd__(wide),
    "out": lambda wide, x: torch.mul(x, x, out=wide),
    "out of a sum": lambda wide, x: torch.sum(x, 0, dtype=torch.float64, out=wide[0]),
    "slice": lambda wide, x: x.__setitem__(slice(2), wide[:2]),
    "slice of float64": lambda wide, x: wide.__setitem__(slice(2), x[:2]),
    "number": lambda wide, x: x.__setitem__(0, wide[1]),
    "mask": lambda wide, x: x.__setitem__(wide > 0.5, 0.25),
    "lerp_": lambda wide, x: wide.lerp_(x.double(), 0.25),
}


@pytest.mark.simulated_mps
@pytest.mark.filterwarnings("ignore::torchdevice_mode.TorchDeviceWarning")
@pytest.mark.parametrize("float64", ["downcast", "cpu"])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_what_is_written_into_is_the_programs_own(float64, write):
    def run():
        wide, x = torch.from_numpy(MORE.copy()), ones()
        before = wide, x
        write(wide, x)
        assert (wide.dtype, x.dtype) == (torch.float64, torch.float32)
        assert (before[0] is wide) and (before[1] is x)
        return wide.tolist(), x.tolist()

    with torchdevice_mode.redirect(float64=float64):
        written = run()
    for found, expected in zip(written, plainly(run), strict=True):
        assert found == pytest.approx(expected, rel=1e-6 if float64 == "downcast" else 1e-15)


@pytest.mark.simulated_mps
@pytest.mark.parametrize("float64", ["downcast", "cpu", "error"])
def test_a_float64_tensor_is_filled_by_a_cuda_generator(float64):
    with torchdevice_mode.redirect(float64=float64):
        generator = torch.Generator("cuda").manual_seed(0)
        wide = torch.from_numpy(np.zeros(8))
        assert wide.normal_(generator=generator) is wide
        out = torch.from_numpy(np.zeros(8))
        assert torch.randn(8, generator=generator, out=out) is out
    assert wide.is_cpu and wide.dtype is torch.float64 and wide.std() > 0
    assert out.is_cpu and out.dtype is torch.float64 and not torch.equal(out, wide)


@pytest.mark.simulated_mps
@pytest.mark.parametrize("weights_only", [True, False])
def test_a_file_is_refused_on_request(weights_only):
    buffer = io.BytesIO()
    torch.save(torch.ones(2, dtype=torch.float64), buffer)
    buffer.seek(0)
    with torchdevice_mode.redirect(float64="error"):
        with pytest.raises(TypeError, match=r"support float64.*told float64="):
            torch.load(buffer, map_location="cuda", weights_only=weights_only)


LARGE = {
    "filled": lambda: doubles().fill_(1e300),
    "made": lambda: torch.full((2,), torch.finfo(torch.float64).max, dtype=torch.float64),
    "masked": lambda: doubles().masked_fill(doubles() > 0, torch.finfo(torch.float64).max),
    "bounded": lambda: doubles().mul(torch.inf).clamp(max=1e300),
}


@pytest.mark.simulated_mps
@pytest.mark.filterwarnings("ignore::torchdevice_mode.TorchDeviceWarning")
@pytest.mark.parametrize("call", LARGE.values(), ids=LARGE)
def test_numbers_too_large_for_float32_become_its_largest(redirected, target, call):
    result = call()
    assert result.device == target
    assert result.tolist() == [torch.finfo(torch.float32).max] * 2


def test_a_number_too_large_for_the_programs_own_dtype_is_its_error(redirected):
    with pytest.raises(RuntimeError, match="without overflow"):
        torch.zeros(2, dtype=torch.float16, device="cuda").fill_(1e6)


def fitted(make, **options):
    """A line through points, by an optimizer."""
    x = torch.linspace(0, 1, 8, dtype=torch.float64, device="cuda").reshape(8, 1)
    model = torch.nn.Linear(1, 1).cuda().double()
    with torch.no_grad():
        model.weight.fill_(0.3)
        model.bias.fill_(0.1)
    held = list(model.parameters())
    optimizer = make(held, **options)
    for _ in range(4):

        def closure():
            optimizer.zero_grad()
            loss = ((model(x) - 3 * x - 1) ** 2).mean()
            loss.backward()
            return loss

        optimizer.step(closure)
    assert all(p is q for p, q in zip(held, model.parameters(), strict=True))
    return torch.cat([parameter.detach().flatten() for parameter in held])


def integrated():
    """A turn of the harmonic oscillator, by the fourth-order Runge-Kutta method."""
    a = torch.tensor([[0.0, 1], [-1, 0]], dtype=torch.float64, device="cuda")
    y, step = doubles(1, 0), 2 * np.pi / 100
    for _ in range(100):
        k1 = a @ y
        k2 = a @ (y + step / 2 * k1)
        k3 = a @ (y + step / 2 * k2)
        k4 = a @ (y + step * k3)
        y = y + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return y


def mixed():
    """A float32 model whose loss is taken in float64."""
    weight = torch.ones(4, device="cuda", requires_grad=True)
    loss = ((weight * 0.1).double() - torch.from_numpy(MORE).cuda()).square().mean()
    loss.backward()
    return weight.grad.double()


def decomposed():
    n = 8
    hilbert = torch.tensor(
        [[1 / (i + j + 1) for j in range(n)] for i in range(n)], dtype=torch.float64, device="cuda"
    )
    factor = torch.linalg.cholesky(hilbert)
    return torch.cholesky_solve(torch.ones(n, 1, dtype=torch.float64, device="cuda"), factor)


SOLVERS = {
    "LBFGS": lambda: fitted(torch.optim.LBFGS, line_search_fn="strong_wolfe"),
    "Adam": lambda: fitted(torch.optim.Adam, lr=0.1),
    "AdamW over lists": lambda: fitted(torch.optim.AdamW, foreach=True),
    "SGD": lambda: fitted(torch.optim.SGD, lr=0.1, momentum=0.9),
    "differential equation": integrated,
    "loss in float64": mixed,
    "an ill-conditioned system": decomposed,
}


@pytest.mark.simulated_mps
@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
def test_a_solver_keeps_every_digit_on_the_cpu(solve):
    expected = plainly(solve)
    with torchdevice_mode.redirect(float64="cpu"):
        found = solve()
    assert found.dtype is torch.float64
    assert_equal(found, expected)


@pytest.mark.simulated_mps
def test_gradients_are_checked_in_float64_on_the_cpu():
    with torchdevice_mode.redirect(float64="cpu"):
        given = [torch.rand(2, 2, dtype=torch.float64, device="cuda") for _ in range(2)]
        assert torch.autograd.gradcheck(
            lambda a, b: (a @ b).tanh(), [tensor.requires_grad_() for tensor in given]
        )


class InDouble(torch.autograd.Function):
    """Computes in float64 on the way back."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return (gradient.double() * 2 * x.double()).to(x)


@pytest.mark.simulated_mps
@pytest.mark.filterwarnings("ignore::torchdevice_mode.TorchDeviceWarning")
@pytest.mark.parametrize("float64", ["downcast", "cpu"])
def test_float64_in_the_backward_pass_follows_the_setting(float64):
    with torchdevice_mode.redirect(float64=float64):
        x = ones().requires_grad_()
        InDouble.apply(x).sum().backward()
        assert x.grad.tolist() == [2, 2, 2, 2]


@pytest.mark.simulated_mps
def test_float64_in_the_backward_pass_is_refused_on_request():
    with torchdevice_mode.redirect(float64="error"):
        x = ones().requires_grad_()
        with pytest.raises(TypeError, match=r"support float64.*told float64="):
            InDouble.apply(x).sum().backward()


MISSING = {
    "cumsum": lambda: torch.arange(3, device="cuda").cumsum(0, dtype=torch.float64),
    "bincount": lambda: torch.bincount(
        torch.arange(3, device="cuda"), weights=torch.arange(3, device="cuda")
    ),
}


@pytest.mark.simulated_mps
@pytest.mark.parametrize("name", MISSING)
def test_float64_that_an_operator_makes_on_the_cpu_follows_the_setting(name, target):
    call = MISSING[name]
    expected = plainly(call)
    with simulate.missing_operators([name]):
        with torchdevice_mode.redirect():
            with pytest.warns(TorchDeviceWarning, match="float64-downcast"):
                narrow = call()
        assert (narrow.device, narrow.dtype) == (target, torch.float32)
        assert_close(narrow, expected)
        with torchdevice_mode.redirect(float64="cpu"):
            assert_equal(call(), expected)
        with torchdevice_mode.redirect(float64="error"):
            with pytest.raises(TypeError, match=r"support float64.*told float64="):
                call()


# What Metal holds and does not compute with, in every mode.
FLOAT8 = {
    "there and back": lambda: ones().mul(0.5).to(torch.float8_e4m3fn).to(torch.float32),
    "from the CPU": lambda: (
        torch.from_numpy(np.float32([1, 2])).to(torch.float8_e5m2).cuda().float()
    ),
    "made": lambda: torch.ones(3, dtype=torch.float8_e4m3fn, device="cuda").to(torch.bfloat16),
    "by type": lambda: ones().type(torch.float8_e5m2).half(),
    "into": lambda: torch.zeros(4, device="cuda").copy_(ones().to(torch.float8_e4m3fn)),
}


@pytest.mark.simulated_mps
@pytest.mark.filterwarnings("ignore::torchdevice_mode.TorchDeviceWarning")
@pytest.mark.parametrize("float64", ["downcast", "cpu", "error"])
@pytest.mark.parametrize("call", FLOAT8.values(), ids=FLOAT8)
def test_other_dtypes_that_metal_refuses_are_computed_with_on_the_cpu(target, call, float64):
    with torchdevice_mode.redirect(float64=float64):
        result = call()
    assert result.device == target
    assert_equal(result, plainly(call))


@pytest.mark.simulated_mps
def test_a_conversion_on_the_way_to_the_cpu_loses_nothing():
    with torchdevice_mode.redirect(policy="explicit"):
        x = ones() / 3
        for wide in (x.to("cpu", torch.float64), x.to(torch.device("cpu"), dtype=torch.float64)):
            assert (wide.device.type, wide.dtype) == ("cpu", torch.float64)
            assert torch.equal(wide, torch.full((4,), 1.0).div(3).double())
        assert x.to("cpu", torch.complex128).dtype is torch.complex128


@pytest.mark.simulated_mps
@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.double(),
        lambda x: x.to(torch.float64),
        lambda x: x.to("cuda", torch.float64),
        lambda x: x.to(dtype=torch.float64, device="cuda"),
        lambda x: x.type(torch.float64),
        lambda x: x.type(torch.cuda.DoubleTensor),
        lambda x: x.detach().double(),
    ],
)
def test_who_writes_into_a_converted_tensor_does_not_write_into_the_first(redirected, convert):
    first = torch.ones(2, device="cuda")
    converted = convert(first)
    converted += 1
    assert (first.tolist(), converted.tolist()) == ([1, 1], [2, 2])


@pytest.mark.simulated_mps
@pytest.mark.parametrize("call", DOUBLES.values(), ids=DOUBLES)
def test_float64_is_cast_down_where_the_target_lacks_it(redirected, target, events, call):
    with pytest.warns(TorchDeviceWarning, match="float64") as said:
        result = call()
    assert result.device == target
    assert result.dtype is torch.float32
    torch.testing.assert_close(result.cpu().tolist(), [0.0, 1.0, 2.0])
    assert [(w.message.slug, w.filename) for w in said] == [("float64-downcast", __file__)]
    assert events("downcast") == 1


@pytest.mark.simulated_mps
@pytest.mark.parametrize("call", DOUBLES.values(), ids=DOUBLES)
def test_float64_stays_on_the_cpu_on_request(events, call):
    with torchdevice_mode.redirect(float64="cpu"), warnings.catch_warnings():
        warnings.simplefilter("error", TorchDeviceWarning)
        result = call()
    assert result.device.type == "cpu"
    assert result.dtype is torch.float64
    torch.testing.assert_close(result.tolist(), [0.0, 1.0, 2.0])
    assert events("fallback") + events("adoption") >= 1


@pytest.mark.simulated_mps
@pytest.mark.parametrize("call", DOUBLES.values(), ids=DOUBLES)
def test_float64_is_torchs_error_on_request_with_a_sentence_more(events, call):
    with torchdevice_mode.redirect(float64="error"):
        with pytest.raises((TypeError, RuntimeError)) as raised:
            call()
    torchs, ours = str(raised.value).split(" torchdevice was told ")
    assert torchs.endswith("Please use float32 instead.") or "same device" in torchs
    assert ours == (
        'float64="error": say float64="downcast" to compute in float32, or float64="cpu" to keep '
        "such tensors on the CPU."
    )
    assert events("downcast") == events("fallback") == 0


COMPLEX = {
    "factory": lambda: torch.tensor([1 + 2j], dtype=torch.complex128, device="cuda"),
    "data": lambda: torch.tensor(np.array([1 + 2j]), device="cuda"),
    "cuda": lambda: torch.from_numpy(np.array([1 + 2j])).cuda(),
    "cdouble": lambda: torch.tensor([1 + 2j], device="cuda").cdouble(),
    "conversion": lambda: torch.tensor([1 + 2j], device="cuda").to(torch.complex128),
    "device and dtype": lambda: torch.from_numpy(np.array([1 + 2j])).to("cuda", torch.complex128),
    "factory without a device": lambda: torch.full((1,), 1 + 2j, dtype=torch.complex128),
    "adoption": lambda: torch.from_numpy(np.array([1 + 2j])) + torch.zeros(1, device="cuda"),
}


@pytest.mark.simulated_mps
@pytest.mark.parametrize("call", COMPLEX.values(), ids=COMPLEX)
def test_complex128_is_cast_down_and_keeps_its_imaginary_part(redirected, target, call):
    with pytest.warns(TorchDeviceWarning, match="float64-downcast"):
        result = call()
    assert (result.device, result.dtype) == (target, torch.complex64)
    assert result.tolist() == [1 + 2j]


LAYERS = {
    "made": lambda: torch.nn.Linear(2, 2, dtype=torch.float64),
    "double": lambda: torch.nn.Linear(2, 2).double(),
    "to": lambda: torch.nn.Linear(2, 2).to(torch.float64),
    "moved": lambda: torch.nn.Linear(2, 2, device="meta", dtype=torch.float64).to_empty(
        device="cuda"
    ),
}


@pytest.mark.simulated_mps
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_a_layer_in_float64_trains_in_float32(redirected, target, make):
    with pytest.warns(TorchDeviceWarning, match="float64-downcast"):
        layer = make()
        layer(torch.ones(1, 2, device="cuda")).sum().backward()
    for parameter in layer.parameters():
        assert (parameter.device, parameter.dtype) == (target, torch.float32)
        assert parameter.grad.dtype is torch.float32


BY_DEFAULT = {
    "zeros": lambda: torch.zeros(2),
    "numbers": lambda: torch.tensor([0.5]),
    "as_tensor": lambda: torch.as_tensor([0.5]),
    "complex numbers": lambda: torch.tensor([1 + 2j]),
    "arange": lambda: torch.arange(0.0, 1.0, 0.25, device="cuda"),
    "quotient of integers": lambda: torch.arange(1, 4).cuda() / torch.arange(2, 5).cuda(),
    "product with a number": lambda: torch.arange(3).cuda() * 0.5,
    "root of integers": lambda: torch.arange(3).cuda().sqrt(),
    "choice of numbers": lambda: torch.where(torch.arange(3).cuda() > 1, 0.5, 1.5),
    "layer": lambda: torch.nn.LayerNorm(2)(torch.tensor([[1.0, 3.0]])).detach(),
}


@pytest.mark.simulated_mps
@pytest.mark.parametrize("make", BY_DEFAULT.values(), ids=BY_DEFAULT)
@pytest.mark.parametrize(
    "choose",
    [
        lambda: torch.set_default_dtype(torch.float64),
        lambda: torch.set_default_tensor_type("torch.cuda.DoubleTensor"),
        lambda: torch.set_default_tensor_type(torch.cuda.DoubleTensor),
    ],
    ids=["dtype", "type by name", "type"],
)
def test_a_default_of_float64_is_cast_down(redirected, target, make, choose):
    choose()
    try:
        with pytest.warns(TorchDeviceWarning, match="float64-downcast"):
            result = make()
        expected = plainly(make)
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert (result.device, result.dtype) == (target, NARROWER[expected.dtype])
    assert_close(result, expected)


@pytest.mark.simulated_mps
def test_a_call_site_warns_of_float64_once(redirected, events):
    def ask():
        return torch.zeros(1, dtype=torch.float64)

    with pytest.warns(TorchDeviceWarning) as said:
        for _ in range(3):
            ask()
        torch.ones(1, dtype=torch.float64)
    here = ask.__code__.co_firstlineno
    assert [w.lineno - here for w in said] == [1, 6]
    assert events("downcast") == 4


@pytest.mark.simulated_mps
def test_float64_that_torchs_own_code_asks_for_is_left_to_torch(redirected):
    program = "def ask():\n    return torch.zeros(1, dtype=torch.float64, device='cuda')\n"
    as_torch, as_user = {"torch": torch, "__name__": "torch._utils"}, {"torch": torch}
    exec(program, as_torch)
    exec(program, as_user | {"__name__": "somewhere"}, as_user)
    with pytest.raises(TypeError, match="doesn't support float64"):
        as_torch["ask"]()
    with pytest.warns(TorchDeviceWarning):
        assert as_user["ask"]().dtype is torch.float32


@pytest.mark.simulated_mps
def test_float64_that_comes_by_pickle_keeps_its_values(redirected):
    stored = pickle.dumps(torch.from_numpy(WIDE))
    assert pickle.loads(stored).tolist() == [0, 1, 2]

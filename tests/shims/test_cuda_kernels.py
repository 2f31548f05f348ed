"""Kernels in CUDA's language give what their source says, computed by torch's operators."""

from __future__ import annotations

import math

import pytest
import torch

import torchdevice_mode
from torchdevice_mode.errors import UnsupportedByTargetError

pytestmark = pytest.mark.off_cuda


@pytest.fixture(autouse=True)
def redirection():
    with torchdevice_mode.redirect():
        torch.manual_seed(0)
        yield


def jit(source, **kwargs):
    return torch.cuda.jiterator._create_jit_fn(source, **kwargs)


def each(function, *tensors):
    """Number by number, in Python."""
    flat = [t.cpu().flatten().tolist() for t in torch.broadcast_tensors(*tensors)]
    results = [function(*numbers) for numbers in zip(*flat, strict=True)]
    return torch.tensor(results).reshape(torch.broadcast_shapes(*(t.shape for t in tensors)))


def same(found, expected):
    torch.testing.assert_close(
        found.cpu().double(), expected.cpu().double(), atol=1e-5, rtol=1e-5, equal_nan=True
    )


# --- jiterator ----------------------------------------------------------------------------------

X = [-2.5, -1.0, -0.0, 0.3, 1.0, 2.5, 7.0]
BODIES = {
    "arithmetic": ("return -x + y * (x - 2) / 3;", lambda x, y: -x + y * (x - 2) / 3),
    "comparison": ("return x > y ? x : 0;", lambda x, y: x if x > y else 0),
    "nested choice": (
        "return x < 0 ? -1 : x == 0 ? 0 : 1;",
        lambda x, y: -1 if x < 0 else 0 if x == 0 else 1,
    ),
    "logic": (
        "return (x > 0 && y > 0) || !(x < 1.5);",
        lambda x, y: float((x > 0 and y > 0) or not x < 1.5),
    ),
    "functions": (
        "return ::sin(x) + std::exp(y) * tanhf(x) + fabs(y);",
        lambda x, y: math.sin(x) + math.exp(y) * math.tanh(x) + abs(y),
    ),
    "least and greatest": (
        "return min(max(x, T(-1)), 1.0f) + fmax(y, 0.5);",
        lambda x, y: min(max(x, -1), 1) + max(y, 0.5),
    ),
    "rounding": (
        "return round(x) * 100 + rint(x) * 10 + trunc(x);",
        lambda x, y: (
            math.copysign(math.floor(abs(x) + 0.5), x) * 100 + round(x) * 10 + math.trunc(x)
        ),
    ),
    "variables": (
        "const T a = x * x, b = y; T c = a; c += b; c *= 2; return c;",
        lambda x, y: (x * x + y) * 2,
    ),
    "an if that returns": (
        "if (x > 1) return y; if (x < -1) { return -y; } else if (x == 0) { return 5; } return x;",
        lambda x, y: y if x > 1 else -y if x < -1 else 5 if x == 0 else x,
    ),
    "an if that assigns": (
        "T r = 0; if (x > 0) { r = x; T y = 3; r += y; } else r = -y; return r;",
        lambda x, y: x + 3 if x > 0 else -y,
    ),
    "a loop": (
        "T s = 0; for (int i = 1; i <= 4; ++i) { s += x * i; } return s;",
        lambda x, y: 10 * x,
    ),
    "a loop of its own length": (
        "T s = x; int n = 0; while (s < 6) { s += 2; n++; } return n;",
        lambda x, y: float(max(0, math.ceil((6 - x) / 2))),
    ),
    "integers": (
        "int i = (int)x; return i / 2 + i % 2 * 10 + 7 / 2;",
        lambda x, y: float(int(int(x) / 2) + math.fmod(int(x), 2) * 10 + 3),
    ),
    "casts": (
        "return static_cast<T>(static_cast<int>(y)) + float(1) / 2;",
        lambda x, y: int(y) + 0.5,
    ),
    "a value of a type in parentheses": (
        "return x * (T(1) + (float)(y)) * ((T(2)) - (T) 0.5 * (T)(x));",
        lambda x, y: x * (1 + y) * (2 - 0.5 * x),
    ),
    "not a number": ("return isnan(log(x)) ? y : x;", lambda x, y: y if x < 0 else x),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_template_is_computed_number_by_number(name):
    body, expected = BODIES[name]
    x = torch.tensor(X, device="cuda")
    y = torch.tensor([1.5, -2.0, 0.25], device="cuda")[:, None]
    function = jit(f"template <typename T> T my_kernel(T x, T y) {{ {body} }}")
    found = function(x, y)
    assert (found.dtype, found.shape, found.device) == (torch.float32, (3, 7), x.device)
    same(found, each(expected, x, y))


def test_further_numbers_have_defaults():
    function = jit(
        "template <typename T> T my_kernel(T x, T y, T alpha, bool twice)"
        "{ return (twice ? 2 : 1) * (-x + alpha * y); }",
        alpha=1.0,
        twice=False,
    )
    x, y = torch.rand(3, device="cuda"), torch.rand(3, device="cuda")
    same(function(x, y), -x + y)
    same(function(x, y, alpha=3.14), -x + 3.14 * y)
    same(function(x, y, twice=True), 2 * (y - x))
    with pytest.raises(KeyError, match="beta is not declared"):
        function(x, y, beta=1)


def test_functions_may_call_others():
    function = jit(
        "template <typename T> T util_fn(T x, T y) { return ::sin(x) + ::cos(y); }"
        "template <typename T> T my_kernel(T x, T y, T val) { return ::min(val, util_fn(x, y)); }",
        val=0.0,
    )
    x, y = torch.randn(9, device="cuda"), torch.randn(9, device="cuda")
    same(function(x, y), torch.clamp(x.sin() + y.cos(), max=0.0))


@pytest.mark.parametrize("count", [1, 2])
def test_several_results(count):
    outs = ", ".join(f"T& out{n}" for n in range(count))
    body = "".join(f"out{n} = x + {n} * y;" for n in range(count))
    function = torch.cuda.jiterator._create_multi_output_jit_fn(
        f"template <typename T> void my_kernel(T x, T y, {outs}) {{ {body} }}", count
    )
    x, y = torch.rand(3, device="cuda"), torch.rand(3, device="cuda")
    found = function(x, y)
    assert isinstance(found, tuple if count == 2 else torch.Tensor)
    for n, one in enumerate(found if count == 2 else [found]):
        same(one, x + n * y)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (torch.float32, torch.float32, torch.float32),
        (torch.float16, torch.float16, torch.float16),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.int32, torch.int64, torch.int64),
        (torch.int64, torch.float32, torch.float32),
        (torch.bool, torch.int32, torch.int32),
    ],
)
def test_types_are_promoted(first, second, expected):
    function = jit("template <typename T> T my_kernel(T x, T y) { return x + y; }")
    x, y = torch.ones(3, device="cuda", dtype=first), torch.ones(3, device="cuda", dtype=second)
    assert function(x, y).dtype == expected
    scalar = torch.ones((), device="cuda", dtype=torch.int64)
    assert function(y, scalar).dtype == torch.result_type(y, scalar)


def test_half_of_the_size_is_computed_in_float32():
    function = jit("template <typename T> T my_kernel(T x) { T y = x * 1000; return y / 1000; }")
    x = torch.full((3,), 300.0, device="cuda", dtype=torch.float16)
    assert function(x).tolist() == [300.0] * 3


def test_tensors_of_any_strides_and_no_gradient():
    function = jit("template <typename T> T my_kernel(T x) { return x * x; }")
    x = torch.randn(4, 3, device="cuda", requires_grad=True).t()
    found = function(x)
    assert not found.requires_grad
    same(found, (x * x).detach())


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: jit("float f(float x) { return x; }"), Exception, "Couldn't parse code"),
        (
            lambda: jit("template <typename T> T f(T x) { return x; }")(*[torch.ones(1)] * 9),
            AssertionError,
            "up to 8 tensor inputs, got 9",
        ),
        (
            lambda: jit("template <typename T> T f(T x) { return x; }")(*[torch.ones(1)] * 2),
            RuntimeError,
            "takes 1 arguments but 2",
        ),
    ],
)
def test_bad_calls_fail_as_in_torch(call, error, text):
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize(
    ("body", "construct"),
    [
        ("return\n curand(x);", r"`curand\(\.\.\.\)` in line 2"),
        ("goto end;", "`goto` in line 1"),
        ("do { x += 1; } while (x < 3); return x;", "`do`"),
        ("for (;;) { break; } return x;", "`break`"),
        ("T y[3]; return x;", "an array as a variable"),
        ("T* y = &x; return x;", "a pointer as a variable"),
        ("return x++;", r"the value of `x\+\+`"),
        ("return blockSize;", "`blockSize`"),
        ("auto f = [=](T y) { return y; }; return x;", r"`\[`"),
        ("#if 1\n return x;", "`?#if"),
    ],
)
def test_what_has_no_translation_is_named_when_it_is_compiled(body, construct):
    with pytest.raises(UnsupportedByTargetError, match=construct) as caught:
        jit(f"template <typename T> T my_kernel(T x) {{ {body} }}")
    assert str(caught.value).startswith("torch.cuda.jiterator._create_jit_fn cannot compile")
    assert str(caught.value).endswith("write the function with torch operators.")


def test_an_operator_may_be_replaced_by_a_function():
    gelu = jit("template <typename T> T my_gelu(T a) { return a > 0 ? a : 0; }")
    x = torch.randn(5, device="cuda")
    # Ended with the test: torch.export looks through all operators that there are.
    with torch.library._scoped_library("torchdevice_kernels", "DEF") as library:
        library.define("gelu(Tensor x) -> Tensor")
        library.impl("gelu", gelu, "CompositeExplicitAutograd")
        same(torch.ops.torchdevice_kernels.gelu(x), x.relu())


# --- _compile_kernel ----------------------------------------------------------------------------


def compiled(source, name):
    return torch.cuda._compile_kernel(source, name)


def test_the_usual_kernel():
    kernel = compiled(
        """
        // adds
        extern "C"
        __global__ void add_tensors(const float* a, const float* b, float* c, int n) {
            int i = threadIdx.x + blockIdx.x * blockDim.x;
            if (i < n)
                c[i] = a[i] + b[i];
        }
        """,
        "add_tensors",
    )
    a, b = torch.randn(1000, device="cuda"), torch.randn(1000, device="cuda")
    c = torch.full((1000,), 9.0, device="cuda")
    assert kernel(grid=(4, 1, 1), block=(256, 1, 1), args=[a, b, c, 900]) is None
    same(c[:900], (a + b)[:900])
    assert (c[900:] == 9.0).all()


def test_a_loop_in_steps_of_the_grid():
    kernel = compiled(
        """
        #include <cuda_fp16.h>
        #define FACTOR 3
        __device__ __forceinline__ float twice(float x) { return 2 * x; }
        extern "C" __global__ void __launch_bounds__(64) scale(float *__restrict__ x, long n) {
            for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
                x[i] = twice(x[i]) * FACTOR;
        }
        """,
        "scale",
    )
    x = torch.randn(500, device="cuda")
    before = x.clone()
    kernel((2, 1, 1), (64, 1, 1), [x, 500])
    same(x, before * 6)


def test_two_directions_and_an_inner_loop():
    kernel = compiled(
        """
        __global__ void matmul(const float* A, const float* B, float* C, int M, int N, int K) {
            const int row = blockIdx.y * blockDim.y + threadIdx.y;
            const int col = blockIdx.x * blockDim.x + threadIdx.x;
            if (row >= M || col >= N) return;
            float acc = 0.0f;
            for (int k = 0; k < K; k++) acc += A[row * K + k] * B[k * N + col];
            C[row * N + col] = acc;
        }
        """,
        "matmul",
    )
    a, b = torch.randn(5, 7, device="cuda"), torch.randn(7, 6, device="cuda")
    c = torch.zeros(5, 6, device="cuda")
    kernel((2, 2, 1), (4, 4, 1), [a, b, c, 5, 6, 7])
    same(c, a @ b)


def test_sums_over_threads():
    kernel = compiled(
        """
        __global__ void histogram(const int* x, int* counts, float* total, int n) {
            int i = blockIdx.x * blockDim.x + threadIdx.x;
            if (i < n) { atomicAdd(&counts[x[i]], 1); atomicAdd(total, 0.5f); }
        }
        """,
        "histogram",
    )
    x = torch.randint(4, (100,), device="cuda", dtype=torch.int32)
    counts, total = torch.zeros(4, device="cuda", dtype=torch.int32), torch.zeros(1, device="cuda")
    kernel((1, 1, 1), (128, 1, 1), [x, counts, total, 100])
    assert counts.tolist() == [(x == n).sum().item() for n in range(4)]
    assert total.item() == 50.0


def test_memory_begins_where_the_tensor_does():
    kernel = compiled("__global__ void set(float* x) { x[threadIdx.x * 2] = 1; }", "set")
    whole = torch.zeros(8, device="cuda")
    kernel((1, 1, 1), (3, 1, 1), [whole[1:]])
    assert whole.tolist() == [0, 1, 0, 1, 0, 1, 0, 0]


@pytest.mark.parametrize(
    ("source", "construct"),
    [
        ("__global__ void f(float* x) { __shared__ float s[2]; }", "`__shared__`"),
        ("__global__ void f(float* x) { __syncthreads(); }", r"`__syncthreads\(\.\.\.\)`"),
        ("__global__ void f(float** x) { }", "a pointer to a pointer"),
        ("__global__ void f(float4* x) { }", "`float4`"),
        ("__global__ void f(float* x) { *x = 1; }", r"`\*`"),
        ("__global__ void f(int* x) { int y = atomicAdd(x, 1); }", "the value of `atomicAdd"),
        ("__global__ void g(float* x) { }", "because it defines no function `f`: write"),
    ],
)
def test_threads_that_speak_with_each_other_have_no_translation(source, construct):
    with pytest.raises(UnsupportedByTargetError, match=construct):
        compiled(source, "f")


@pytest.mark.parametrize(
    ("args", "error", "text"),
    [
        (lambda x: [x], TypeError, "takes 2 arguments, not 1"),
        (lambda x: [x, x], TypeError, "n takes a number"),
        (lambda x: [1, 1], TypeError, "x takes a tensor"),
        (lambda x: [x.int(), 1], TypeError, "points to float, and the tensor holds torch.int32"),
    ],
)
def test_arguments_of_another_kind(args, error, text):
    kernel = compiled("__global__ void f(float* x, int n) { x[0] = n; }", "f")
    with pytest.raises(error, match=text):
        kernel((1, 1, 1), (1, 1, 1), args(torch.zeros(1, device="cuda")))


def test_what_was_compiled_stays_good_when_the_block_is_left():
    kernel = compiled("__global__ void f(float* x) { x[0] = 1; }", "f")
    double = jit("template <typename T> T f(T x) { return 2 * x; }")
    x = torch.zeros(1, device="cuda")
    with torchdevice_mode.native():
        kernel((1, 1, 1), (1, 1, 1), [x])
        assert double(x).item() == 2


def test_a_block_that_is_too_large():
    kernel = compiled("__global__ void f(float* x) { x[0] = 1; }", "f")
    with pytest.raises(RuntimeError, match="CUDA error: invalid argument"):
        kernel((1, 1, 1), (2048, 1, 1), [torch.zeros(1, device="cuda")])

"""What CUDA programs call outside of torch.cuda: library flags, profilers, DataParallel."""

from __future__ import annotations

import contextlib

import pytest
import torch

pytestmark = pytest.mark.usefixtures("redirected")


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        (torch.backends.cudnn, "benchmark", True),
        (torch.backends.cudnn, "deterministic", True),
        (torch.backends.cudnn, "enabled", False),
        (torch.backends.cudnn, "allow_tf32", False),
        (torch.backends.cuda.matmul, "allow_tf32", True),
        (torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_flag_is_accepted_and_remembered(owner, name, value):
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        assert getattr(owner, name) is value
    finally:
        setattr(owner, name, before)


@pytest.mark.parametrize(
    ("function", "choice"),
    [("preferred_linalg_library", "cusolver"), ("preferred_linalg_library", "magma"),
     ("preferred_blas_library", "cublaslt")],
)  # fmt: skip
def test_a_preferred_library_is_accepted_and_remembered(function, choice):
    prefer = getattr(torch.backends.cuda, function)
    assert prefer(choice) == prefer()
    assert prefer().name.lower() == choice
    with pytest.raises(RuntimeError, match="Unknown input value"):
        prefer("nothing")


def test_the_plan_cache_of_cufft_has_a_limit():
    cache = torch.backends.cuda.cufft_plan_cache
    cache.max_size = 10
    cache[0].max_size = 20
    assert cache.max_size == 20 and cache.size == 0
    cache.clear()
    with pytest.raises(RuntimeError, match="cufft_plan_cache: expected 0 <= device index"):
        _ = cache[3]


def test_cudnns_version_can_be_compared():
    assert torch.backends.cudnn.version() < 1


def test_attention_kernels_can_be_chosen():
    q = torch.ones(1, 1, 4, 8, device="cuda")
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert torch.nn.functional.scaled_dot_product_attention(q, q, q).shape == q.shape


def test_a_profiler_of_cuda_profiles_without_it(capfd):
    from torch.profiler import ProfilerActivity, profile, record_function

    x = torch.ones(8, 8, device="cuda")
    with (
        profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler,
        record_function("step"),
    ):
        (x @ x).sum()
    table = profiler.key_averages().table(sort_by="cuda_time_total", row_limit=5)
    assert "step" in table
    assert "CUDA event" not in capfd.readouterr().err


def test_nvidias_marks_are_harmless():
    with (
        torch.autograd.profiler.emit_nvtx(),
        torch.cuda.nvtx.range("step {}", 1),
        torch.cuda.profiler.profile(),
    ):
        assert torch.cuda.nvtx.range_push("inner") == 0
        assert torch.cuda.nvtx.range_pop() == 0
        torch.cuda.nvtx.mark("here")


@pytest.mark.parametrize("options", [{}, {"device_ids": [0, 1, 2]}, {"device_ids": [0]}])
def test_data_parallel_runs_on_the_one_device(options, target):
    model = torch.nn.DataParallel(torch.nn.Linear(3, 2), **options).cuda()
    with contextlib.suppress(AttributeError):
        assert model.device_ids == [0]
    y = model(torch.ones(4, 3))
    y.sum().backward()
    assert y.device == target and y.shape == (4, 2)
    assert set(model.state_dict()) == {"module.weight", "module.bias"}


def test_graphed_callables_run():
    model = torch.nn.Linear(3, 2).cuda()
    x = torch.ones(4, 3, device="cuda")
    graphed = torch.cuda.make_graphed_callables(model, (x,))
    assert torch.equal(graphed(x), model(x))


def test_saved_tensors_go_to_the_cpu_without_being_pinned():
    x = torch.ones(3, device="cuda", requires_grad=True)
    with torch.autograd.graph.save_on_cpu(pin_memory=True):
        y = (x * x).sum()
    y.backward()
    assert x.grad.tolist() == [2.0, 2.0, 2.0]


def test_a_storage_is_made_on_the_target(target):
    assert torch.UntypedStorage(4, device="cuda").device.type == target.type
    assert torch.UntypedStorage(4, device="meta").device.type == "meta"
    assert torch.UntypedStorage([1, 2]).tolist() == [1, 2]

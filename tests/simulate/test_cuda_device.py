"""The simulated `cuda` device: what programs see of it through PyTorch's own interfaces."""

from __future__ import annotations

import gc
import io
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from torchdevice_mode import simulate

pytestmark = pytest.mark.skipif(
    simulate.loaded_device() != "cuda", reason="runs on the simulated cuda device"
)
MIB = 2**20


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(*shape, device="cuda")


# --- what torch says of it ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (lambda: torch.cuda.is_available(), True),
        (lambda: torch.backends.cuda.is_built(), True),
        (lambda: torch.cuda.device_count(), 1),
        (lambda: torch.cuda.current_device(), 0),
        (lambda: torch.cuda.get_device_name(), "Simulated CUDA"),
        (lambda: torch.cuda.get_device_capability(), (8, 0)),
        (lambda: torch.cuda.is_bf16_supported(), True),
        (lambda: str(torch.accelerator.current_accelerator()), "cuda"),
        (lambda: torch.accelerator.is_available(), True),
        (lambda: torch.backends.mps.is_available(), False),
        (lambda: ones(2).type(), "torch.cuda.FloatTensor"),
        (lambda: ones(2).is_cuda, True),
        (lambda: ones(2).double().dtype, torch.float64),
        (lambda: torch.zeros(2).cuda().device, torch.device("cuda", 0)),
        (lambda: torch.zeros(2).to("cuda").device, torch.device("cuda", 0)),
        (lambda: torch.UntypedStorage(8, device="cuda").device, torch.device("cuda", 0)),
        (lambda: torch.Generator("cuda").device, torch.device("cuda", 0)),
        (lambda: torch.zeros(2).pin_memory().is_pinned(), True),
        (lambda: torch.zeros(2).pin_memory()[1:].is_pinned(), True),
        (lambda: torch.zeros(2).is_pinned(), False),
        (lambda: ones(2).to("cpu", non_blocking=True).is_pinned(), True),
    ],
)
def test_torch_tells_of_a_cuda_device(ask, answer):
    assert ask() == answer


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: ones(2) + torch.ones(2),
            RuntimeError,
            r"^Expected all tensors to be on the same device, but found at least two devices, "
            r"cuda:0 and cpu!$",
        ),
        (
            lambda: ones(2, 2) @ torch.ones(2, 2),
            RuntimeError,
            r"^Expected all tensors to be on the same device, but got mat2 is on cpu, different "
            r"from other tensors on cuda:0 \(when checking argument in method wrapper_CUDA_mm\)$",
        ),
        (lambda: torch.zeros(2, device="cuda:1"), RuntimeError, "CUDA error: invalid device"),
        (lambda: torch.zeros(2).to("cuda:1"), RuntimeError, "CUDA error: invalid device ordinal"),
        (lambda: torch.cuda.set_device(1), RuntimeError, "CUDA error: invalid device ordinal"),
        (lambda: torch.cuda.get_device_properties(1), AssertionError, "Invalid device id"),
        (lambda: ones(2).numpy(), TypeError, "can't convert cuda:0 device type tensor to numpy"),
        (
            lambda: torch.randn(2, device="cuda", generator=torch.Generator()),
            RuntimeError,
            "Expected a 'cuda' device type for generator but found 'cpu'",
        ),
        (lambda: torch.empty(2**50, device="cuda"), torch.OutOfMemoryError, "^CUDA out of memory"),
        (lambda: torch.cuda.CUDAGraph(), RuntimeError, "dummy base class"),
    ],
)
def test_errors_are_those_of_cuda(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_a_missing_operator_is_the_dispatchers_error():
    with simulate.missing_operators(["linalg_eig"]):
        with pytest.raises(NotImplementedError, match="Could not run 'aten::linalg_eig' with arg"):
            torch.linalg.eig(torch.eye(2, device="cuda"))
    assert torch.linalg.eig(torch.eye(2, device="cuda")).eigenvalues.is_cuda


def test_a_forked_child_is_told_to_spawn():
    ones(1)
    child = os.fork()
    if child == 0:
        try:
            torch.zeros(1).cuda()
        except RuntimeError as error:
            os._exit(7 if "Cannot re-initialize CUDA in forked subprocess" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


# --- memory ------------------------------------------------------------------------------------


def test_memory_is_counted_in_the_blocks_of_cudas_allocator():
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    x = ones(3)
    assert torch.cuda.memory_allocated() - before == 512
    y = torch.empty(MIB, dtype=torch.uint8, device="cuda")
    del x, y
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.max_memory_allocated() - before == MIB + 512
    assert torch.cuda.memory_reserved() % (2 * MIB) == 0
    assert torch.cuda.memory_reserved() >= torch.cuda.memory_allocated()
    assert "memory summary" in torch.cuda.memory_summary()


def test_the_cache_of_pinned_memory_can_be_emptied():
    pinned = torch.ones(4).pin_memory()
    if hasattr(torch.accelerator, "empty_host_cache"):  # from torch 2.13 on
        torch.accelerator.empty_host_cache()
    assert pinned.is_pinned() and pinned.tolist() == [1] * 4


def test_a_limit_and_a_fraction_run_out_of_memory():
    with simulate.memory_limit(64 * MIB):
        assert torch.cuda.mem_get_info()[1] == 64 * MIB
        with pytest.raises(torch.OutOfMemoryError, match=r"total capacity of 64\.00 MiB"):
            torch.empty(65 * MIB, dtype=torch.uint8, device="cuda")
        torch.cuda.set_per_process_memory_fraction(0.5)
        try:
            with pytest.raises(torch.OutOfMemoryError, match=r"32\.00 MiB allowed"):
                torch.empty(33 * MIB, dtype=torch.uint8, device="cuda")
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        torch.empty(33 * MIB, dtype=torch.uint8, device="cuda")


# --- streams and events ------------------------------------------------------------------------


def test_the_current_stream_follows_the_block():
    stream = torch.cuda.Stream(priority=-1)
    assert isinstance(stream, torch.Stream) and stream.priority == -1
    assert torch.cuda.current_stream() == torch.cuda.default_stream() != stream
    with torch.cuda.stream(stream):
        assert torch.cuda.current_stream() == stream
        x = ones(2)
        x.record_stream(stream)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    torch.cuda.current_stream().wait_stream(stream)
    assert stream.query()


def test_events_measure_real_time():
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    ones(500, 500) @ ones(500, 500)
    end.record(torch.cuda.Stream())
    end.synchronize()
    assert isinstance(end, torch.Event) and end.query()
    assert start.elapsed_time(end) > 0 > end.elapsed_time(start)


@pytest.mark.parametrize(("timing", "text"), [(True, "must be recorded"), (False, "enable_timing")])
def test_events_without_time_have_cudas_errors(timing, text):
    event = torch.cuda.Event(enable_timing=timing)
    with pytest.raises(ValueError, match=text):
        event.elapsed_time(torch.cuda.Event(enable_timing=timing))


# --- random numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [torch.manual_seed, torch.cuda.manual_seed])
def test_seeds_give_the_same_numbers(seed):
    seed(3)
    first = torch.randn(4, device="cuda")
    state = torch.cuda.get_rng_state()
    second = torch.randn(4, device="cuda")
    seed(3)
    assert torch.equal(torch.randn(4, device="cuda"), first)
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.randn(4, device="cuda"), second)
    with torch.random.fork_rng():
        torch.randn(4, device="cuda")
    assert torch.cuda.default_generators[0].device.type == "cuda"


# --- modules -----------------------------------------------------------------------------------

MODULES = {
    "convolution": lambda: (nn.Conv2d(4, 8, 3), (2, 4, 6, 6)),
    "depthwise convolution": lambda: (nn.Conv2d(4, 4, 3, groups=4), (2, 4, 6, 6)),
    "dilated convolution": lambda: (nn.Conv3d(4, 2, 2, dilation=2), (2, 4, 6, 6, 6)),
    "transposed convolution": lambda: (nn.ConvTranspose2d(4, 2, 3), (2, 4, 6, 6)),
    "batch norm": lambda: (nn.BatchNorm1d(4), (5, 4)),
    "attention": lambda: (nn.TransformerEncoderLayer(8, 2, dropout=0.0), (3, 2, 8)),
    "linear": lambda: (nn.Sequential(nn.Linear(4, 4), nn.GELU()), (3, 4)),
}
CELLS = {cell: getattr(nn, cell) for cell in ("RNN", "LSTM", "GRU")}


def check_module(module: nn.Module, x: torch.Tensor) -> None:
    """Results and gradients on the device are the CPU's."""
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    there = torch.load(buffer, map_location="cuda", weights_only=False)
    outputs = [module(x), there(x.cuda())]
    outputs = [out[0] if isinstance(out, tuple) else out for out in outputs]
    torch.testing.assert_close(outputs[1].cpu(), outputs[0], rtol=1e-4, atol=1e-5)
    for out in outputs:
        out.pow(2).sum().backward()
    for here, moved in zip(module.parameters(), there.parameters(), strict=True):
        assert moved.grad.device == moved.device == torch.device("cuda", 0)
        torch.testing.assert_close(moved.grad.cpu(), here.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_modules_compute_what_the_cpu_does(make):
    torch.manual_seed(0)
    module, shape = make()
    check_module(module, torch.randn(shape))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_recurrent_modules_compute_what_the_cpu_does(recwarn, cell, bias):
    torch.manual_seed(0)
    check_module(cell(4, 5, num_layers=2, bidirectional=True, bias=bias), torch.randn(3, 2, 4))
    assert not recwarn.list


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_trains(dtype):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)).cuda()
    optimizer, scaler = torch.optim.AdamW(model.parameters(), 0.05), torch.amp.GradScaler("cuda")
    x = torch.randn(16, 4, device="cuda")
    losses = []
    for _ in range(10):
        with torch.autocast("cuda", dtype=dtype):
            assert model(x).dtype is dtype
            loss = (model(x).float() - x.sum(1, keepdim=True)).pow(2).mean()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert scaler.get_scale() > 0


def test_a_checkpoint_comes_back_on_the_device():
    buffer = io.BytesIO()
    torch.save({"x": ones(2)}, buffer)
    for location, device in [(None, "cuda"), ("cuda:0", "cuda"), ("cpu", "cpu")]:
        buffer.seek(0)
        assert torch.load(buffer, map_location=location)["x"].device.type == device


def test_the_command_line_simulates_it(tmp_path):
    (tmp_path / "program.py").write_text(
        "import torch\nprint(torch.zeros(1, device='mps').device, torch.cuda.is_available())\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "torchdevice_mode", "run", "--simulate", "cuda", "program.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert run.stdout == "cuda:0 True\n"

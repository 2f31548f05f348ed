"""What only a Mac can tell: CUDA programs on Metal's own kernels, memory, events and errors.

On the simulated device they are rehearsed: there they tell only that a Mac can be asked. The other
tests are for both.
"""

from __future__ import annotations

import time
from contextlib import nullcontext

import pytest
import torch
from conftest import SIMULATED
from torch import nn

import torchdevice
from torchdevice import TorchDeviceWarning

pytestmark = pytest.mark.needs_mps


@pytest.fixture(autouse=True)
def on_metal():
    missing = torchdevice.simulate.missing_operators
    lacks = missing(torchdevice.simulate.REAL_GAPS_2_13) if SIMULATED else nullcontext()
    with lacks, torchdevice.redirect(target="mps"):
        yield


def on_the_cpu(work):
    """What work gives in plain torch on the CPU."""
    with torchdevice.native():
        return work("cpu")


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    assert actual.device.type == "mps"
    torch.testing.assert_close(
        torch.from_numpy(actual.detach().numpy()), expected, rtol=tolerance, atol=tolerance
    )


def transformer(device: str) -> list[float]:
    """Losses of some steps of a small transformer."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.Embedding(50, 32), nn.TransformerEncoder(layer, 2), nn.Linear(32, 50))
    model = model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        tokens = torch.randint(50, (4, 16), device=device)
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_transformer_trains_as_on_the_cpu():
    with torchdevice.redirect(target="mps", rng="cpu"):
        losses = transformer("cuda")
    assert losses == pytest.approx(on_the_cpu(transformer), rel=1e-3)


@pytest.mark.parametrize(
    "work",
    [
        lambda d: torch.linspace(0, 1, 12, device=d).reshape(3, 4).softmax(1),
        lambda d: torch.arange(12.0, device=d).reshape(3, 4) @ torch.ones(4, 2, device=d),
        lambda d: nn.functional.conv2d(
            torch.arange(32.0, device=d).reshape(1, 2, 4, 4), torch.ones(3, 2, 3, 3, device=d)
        ),
        lambda d: nn.functional.scaled_dot_product_attention(
            *(torch.linspace(-1, 1, 64, device=d).reshape(1, 2, 4, 8) for _ in range(3)),
            is_causal=True,
        ),
        lambda d: torch.arange(10, device=d).float().cumsum(0),
    ],
    ids=["softmax", "matmul", "conv2d", "attention", "cumsum"],
)
def test_an_operator_gives_what_the_cpu_gives(work):
    close(work("cuda"), on_the_cpu(work))


def test_an_operator_that_metal_lacks_runs_on_the_cpu(events):
    matrix = torch.tensor([[2.0, 0.0], [0.0, 3.0]], device="cuda")
    values = torch.linalg.eigvals(matrix)
    assert values.device.type == "mps"
    assert sorted(values.real.tolist()) == pytest.approx([2.0, 3.0])
    assert events("fallback") == 1


def test_float64_is_cast_down():
    with pytest.warns(TorchDeviceWarning, match="float64-downcast"):
        x = torch.zeros(3, dtype=torch.float64, device="cuda")
    assert (x.dtype, x.device.type) == (torch.float32, "mps")


def test_a_numpy_array_is_adopted():
    numpy = pytest.importorskip("numpy")
    x = torch.ones(3, device="cuda") + torch.from_numpy(numpy.ones(3, dtype="float32"))
    assert x.tolist() == [2.0, 2.0, 2.0]


def test_copies_that_do_not_block_are_right():
    """https://github.com/pytorch/pytorch/issues/139550: the source changes right after the call."""
    for value in range(50):
        source = torch.full((100_000,), float(value), device="cpu:-1")
        torch.device("cpu:-1")
        there = source.to("cuda", non_blocking=True)
        source.fill_(-1.0)
        assert there.max().item() == there.min().item() == value


def test_memory_figures_follow_what_is_allocated():
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    x = torch.ones(4 * 1024**2, device="cuda")
    assert torch.cuda.memory_allocated() - before >= x.nbytes
    del x
    assert torch.cuda.memory_allocated() - before < 4 * 1024**2
    assert torch.cuda.max_memory_allocated() - before >= 16 * 1024**2


def test_out_of_memory_is_what_cuda_raises():
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        torch.empty(1024**4, device="cuda")
    assert torch.ones(1, device="cuda").item() == 1.0


@pytest.mark.timeout(60)
def test_events_measure_time_and_do_not_hang():
    """https://github.com/pytorch/pytorch/issues/196395: elapsed_time could wait for ever."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began = time.perf_counter()
    start.record()
    x = torch.ones(512, 512, device="cuda")
    for _ in range(20):
        x = x @ x / 512
    end.record()
    end.synchronize()
    passed = (time.perf_counter() - began) * 1e3
    assert 0 < start.elapsed_time(end) <= passed
    assert start.elapsed_time(end) == start.elapsed_time(end)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_and_its_scaler_train(dtype):
    model = nn.Linear(8, 8).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda", init_scale=128.0)
    before = model.weight.detach().clone()
    with torch.autocast("cuda", dtype=dtype):
        loss = model(torch.ones(4, 8, device="cuda")).square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(before, model.weight)


def test_random_numbers_can_be_repeated():
    torch.cuda.manual_seed(7)
    state = torch.cuda.get_rng_state()
    first = torch.rand(5, device="cuda")
    torch.cuda.set_rng_state(state)
    assert torch.equal(first, torch.rand(5, device="cuda"))


def test_checkpoints_are_read_by_plain_torch(tmp_path):
    torch.save({"x": torch.arange(3.0, device="cuda")}, tmp_path / "x.pt")
    with torchdevice.native():
        assert torch.load(tmp_path / "x.pt")["x"].device.type == "cpu"
    assert torch.load(tmp_path / "x.pt")["x"].device.type == "mps"


def test_compiled_code_runs_on_metal():
    @torch.compile(fullgraph=True)
    def layer(x):
        return torch.nn.functional.gelu(x) + torch.ones(4, device="cuda")

    x = torch.linspace(-1, 1, 4, device="cuda")
    close(layer(x), on_the_cpu(lambda d: nn.functional.gelu(torch.linspace(-1, 1, 4)) + 1))


def test_verification_finds_no_difference_in_a_training_step():
    with torchdevice.redirect(target="mps", verify=1.0):
        transformer("cuda")
    assert torchdevice.differences() == []

"""Memory that runs out: by every way to allocate, it is the exception that CUDA programs catch.

Metal's memory runs out on the simulated device; the CPU's where it is the target.
"""

from __future__ import annotations

import copy
import gc
import io
import pickle
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

import torchdevice_mode
from torchdevice_mode import _out_of_memory, simulate

SIMULATED = simulate.is_loaded()
MIB = 2**20
# Elements that do not fit: 16 MiB where 1 MiB is left, or more than any address space holds.
MANY = 4 * MIB if SIMULATED else 2**46
SIDE = 2**12 if SIMULATED else 2**23

on_cpu = pytest.mark.skipif(SIMULATED, reason="needs the CPU as target")


@pytest.fixture
def short_of_memory():
    """Let memory run out from here on, or the CPU's address space as ever."""
    if not SIMULATED:
        yield
        return
    gc.collect()  # what earlier tests left must not make room
    with simulate.memory_limit(torch.cuda.memory_allocated() + MIB):
        yield


class Operands:
    """What the calls work on, made before memory is short."""

    def __init__(self):
        self.one = torch.ones(1, device="cuda")
        self.many = self.one.expand(MANY)
        self.side = self.one.expand(SIDE)
        self.weight = torch.ones(1, device="cuda", requires_grad=True)
        self.loss = self.weight.expand(MANY)[:1].sum()
        self.scripted = SCRIPTED


class Copy(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone(memory_format=torch.contiguous_format)


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    SCRIPTED = torch.jit.script(Copy())


class LargeBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, gradient):
        return gradient.expand(MANY).contiguous()[:1]


def with_hook(weight):
    result = weight * 2
    result.register_hook(lambda gradient: gradient.expand(MANY).contiguous()[:1])
    return result.sum()


def in_a_thread(work):
    raised = []

    def run():
        try:
            work()
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    raise raised[0]


EXHAUSTING = {
    "empty": lambda x: torch.empty(MANY, device="cuda"),
    "zeros": lambda x: torch.zeros(MANY, device="cuda"),
    "arange": lambda x: torch.arange(MANY, device="cuda"),
    "randn": lambda x: torch.randn(MANY, device="cuda"),
    "without a device": lambda x: torch.empty(MANY),
    "new": lambda x: x.one.new_zeros(MANY),
    "more than there is": lambda x: torch.empty(2**50, device="cuda"),
    "layer": lambda x: torch.nn.Linear(1024, MANY // 1024, device="cuda"),
    "layer without a device": lambda x: torch.nn.Embedding(MANY // 64, 64),
    "operator": lambda x: x.many + 1,
    "matrix product": lambda x: torch.outer(x.side, x.side),
    "method": lambda x: x.one.repeat(MANY),
    "copy": lambda x: x.many.clone(memory_format=torch.contiguous_format),
    "deepcopy": lambda x: copy.deepcopy(torch.nn.Parameter(x.many)),
    "cat": lambda x: torch.cat([x.many, x.many]),
    "out": lambda x: torch.add(x.many, 1, out=torch.empty(0, device="cuda")),
    "resize_": lambda x: x.one.clone().resize_(MANY),
    "in place": lambda x: x.one.clone().__iadd__(torch.ones(MANY, device="cuda").sum()),
    "functional": lambda x: torch.nn.functional.pad(x.many, (1, 1)),
    "functional in Python": lambda x: torch.nn.functional.gumbel_softmax(x.many),
    "foreach": lambda x: torch._foreach_add([x.many], 1),
    "aten": lambda x: torch.ops.aten.mul(x.many, 2),
    "aten factory": lambda x: torch.ops.aten.zeros([MANY], device=torch.device("cuda")),
    "legacy constructor": lambda x: torch.cuda.FloatTensor(MANY),
    "storage": lambda x: torch.UntypedStorage(4 * MANY, device="cuda"),
    "legacy storage": lambda x: torch.cuda.FloatStorage(MANY),
    "script": lambda x: x.scripted(x.many),
    "autocast": lambda x: torch.autocast("cuda", torch.bfloat16)(torch.outer)(x.side, x.side),
    "vmap": lambda x: torch.vmap(lambda row: row.expand(MANY).clone() + 1)(x.one[None]),
    "func.grad": lambda x: torch.func.grad(lambda w: w.expand(MANY).sin().sum())(x.weight),
    "checkpoint": lambda x: checkpoint(torch.sin, x.many, use_reentrant=False),
    "compiled": lambda x: torch.compile(lambda x: x + 1, backend="aot_eager")(x.many),
    "thread": lambda x: in_a_thread(lambda: torch.empty(MANY, device="cuda")),
    "backward": lambda x: x.loss.backward(),
    "autograd.backward": lambda x: torch.autograd.backward(x.loss),
    "autograd.grad": lambda x: torch.autograd.grad(x.loss, x.weight),
    "custom backward": lambda x: LargeBackward.apply(x.weight).sum().backward(),
    "hook": lambda x: with_hook(x.weight).backward(),
    "data parallel": lambda x: torch.nn.DataParallel(torch.nn.Identity())(torch.empty(MANY)),
    "raw allocation": lambda x: torch.cuda.caching_allocator_alloc(4 * MANY),
}


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("call", EXHAUSTING.values(), ids=EXHAUSTING)
def test_running_out_of_memory_is_what_cuda_programs_catch(redirected, short_of_memory, call):
    operands = Operands()
    with pytest.raises(torch.cuda.OutOfMemoryError) as caught:
        call(operands)
    assert type(caught.value) is torch.OutOfMemoryError
    assert str(caught.value).startswith("CUDA out of memory. Tried to allocate ")
    assert type(caught.value.__cause__) is RuntimeError
    assert torch.zeros(8, device="cuda").sum().item() == 0


class Host:
    """What lies in the host's memory, for the ways onto the device."""

    def __init__(self):
        with torchdevice_mode.native():
            self.tensor = torch.ones(MANY)
            self.linear = torch.nn.Linear(2048, 2048)
            self.saved = io.BytesIO()
            torch.save(self.tensor, self.saved)
            self.pickled = pickle.dumps(self.tensor)
        self.array = np.ones(MANY, np.float32)
        self.saved.seek(0)
        self.one = torch.ones(1, device="cuda")


def loaded(host, **options):
    dataset = torch.utils.data.TensorDataset(host.tensor[None])
    return torch.utils.data.DataLoader(dataset, **options)


ARRIVING = {
    "to": lambda x: x.tensor.to("cuda"),
    "to, not blocking": lambda x: x.tensor.to("cuda", non_blocking=True),
    "to another dtype": lambda x: x.tensor.to("cuda", torch.float16),
    "cuda": lambda x: x.tensor.cuda(),
    "copy_": lambda x: torch.empty(MANY, device="cuda").copy_(x.tensor),
    "storage": lambda x: x.tensor.untyped_storage().cuda(),
    "module.cuda": lambda x: x.linear.cuda(),
    "module.to": lambda x: x.linear.to("cuda"),
    "to_empty": lambda x: torch.nn.Linear(2048, 2048, device="meta").to_empty(device="cuda"),
    "tensor of an array": lambda x: torch.tensor(x.array, device="cuda"),
    "as_tensor": lambda x: torch.as_tensor(x.array, device="cuda"),
    "from_numpy": lambda x: torch.from_numpy(x.array).cuda(),
    "load": lambda x: torch.load(x.saved, map_location="cuda"),
    "load, whole pickle": lambda x: torch.load(x.saved, map_location="cuda", weights_only=False),
    "unpickled": lambda x: pickle.loads(x.pickled).cuda(),
    "pinned": lambda x: x.tensor.pin_memory().cuda(non_blocking=True),
    "loader": lambda x: [batch.cuda() for (batch,) in loaded(x, pin_memory=True)],
    "adoption": lambda x: x.tensor + x.one,
}


@pytest.mark.simulated
@pytest.mark.parametrize("call", ARRIVING.values(), ids=ARRIVING)
def test_running_out_of_memory_on_the_way_to_the_device(redirected, short_of_memory, call):
    host = Host()
    with pytest.raises(torch.cuda.OutOfMemoryError, match="MPS backend out of memory") as caught:
        call(host)
    assert str(caught.value).startswith("CUDA out of memory. Tried to allocate ")


@pytest.mark.simulated
@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}, {"capturable": True}])
def test_running_out_of_memory_in_an_optimizers_step(redirected, options):
    weight = torch.nn.Parameter(torch.ones(MIB, device="cuda"))
    weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.Adam([weight], **options)
    with simulate.memory_limit(torch.cuda.memory_allocated() + 6 * MIB):
        with pytest.raises(torch.cuda.OutOfMemoryError):
            optimizer.step()


@on_cpu
def test_running_out_of_memory_in_compiled_code(redirected):
    work = torch.compile(lambda x: x.expand(MANY) + 1)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        work(torch.ones(1, device="cuda"))


IMPORTED_LATE = """
import torch, torchdevice
with torchdevice.redirect():
    from torch._inductor.output_code import CompiledFxGraph
    ours = vars(CompiledFxGraph)["__call__"]
assert vars(CompiledFxGraph)["__call__"] is ours.__wrapped__
with torchdevice.redirect():
    assert vars(CompiledFxGraph)["__call__"].__wrapped__ is ours.__wrapped__
"""


def test_compiled_code_is_torchs_own_afterwards():
    run = [sys.executable, "-c", IMPORTED_LATE]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- what is left behind --------------------------------------------------------------------

HOLDING = {name: EXHAUSTING[name] for name in (
    "empty", "operator", "functional in Python", "backward", "custom backward", "hook", "script",
    "legacy constructor", "checkpoint", "autograd.grad",
)}  # fmt: skip


@pytest.mark.simulated
@pytest.mark.parametrize("call", HOLDING.values(), ids=HOLDING)
def test_memory_is_given_back_without_the_garbage_collector(redirected, short_of_memory, call):
    def run():
        operands = Operands()
        try:
            call(operands)
        except RuntimeError:
            return True
        return False

    run()
    gc.collect()
    before = torch.cuda.memory_allocated()
    gc.disable()
    try:
        assert run()
        # The engine's thread for the device lets go of the graph a moment later.
        for _ in range(200):
            if torch.cuda.memory_allocated() <= before:
                break
            time.sleep(0.01)
        assert torch.cuda.memory_allocated() <= before
    finally:
        gc.enable()


def test_a_loop_that_halves_its_batch_ends(redirected):
    batch = 2**50
    left = MIB + torch.cuda.memory_allocated()
    while batch:
        try:
            if SIMULATED:
                with simulate.memory_limit(left):
                    x = torch.ones(batch, 16, device="cuda")
            else:
                x = torch.empty(batch, 16, device="cuda")
            break
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            batch //= 2
    assert 1 < x.shape[0] < 2**50


def test_each_time_is_counted(redirected, short_of_memory):
    before = torch.cuda.memory_stats()["num_ooms"]
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(MANY, device="cuda")
    assert torch.cuda.memory_stats()["num_ooms"] == before + 2
    torch.cuda.reset_accumulated_memory_stats()
    assert torch.cuda.memory_stats()["num_ooms"] == 0


# --- the words ------------------------------------------------------------------------------

WORDS = {
    "MPS backend out of memory (MPS allocated: 1.00 GiB). Tried to allocate 2.00 GiB on private "
    "pool. Use PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0": "2.00 GiB",
    "MPS backend out of memory (MPS allocated: 1 bytes). Tried to allocate 256 bytes on shared "
    "pool.": "256 bytes",
    "Invalid buffer size: 24.00 GiB": "24.00 GiB",
    "DefaultCPUAllocator: can't allocate memory: you tried to allocate 3221225472 bytes.": (
        "3.00 GiB"
    ),
    "DefaultCPUAllocator: not enough memory: you tried to allocate 1536 bytes.": "1.50 KiB",
}


@pytest.mark.parametrize(("text", "size"), WORDS.items())
def test_the_text_begins_as_cudas_and_ends_as_the_targets(text, size):
    found = str(_out_of_memory.out_of_memory(RuntimeError(text)))
    assert found == f"CUDA out of memory. Tried to allocate {size}. {text}"


def test_a_text_without_a_size_has_none():
    found = str(_out_of_memory.out_of_memory(RuntimeError("std::bad_alloc")))
    assert found == "CUDA out of memory. std::bad_alloc"


# --- what stays as it is --------------------------------------------------------------------


@pytest.mark.simulated
def test_out_of_memory_of_plain_torch_is_its_own():
    with torchdevice_mode.redirect(), torchdevice_mode.native(), simulate.memory_limit(MIB):
        with pytest.raises(RuntimeError, match="MPS backend out of memory") as caught:
            torch.zeros(MANY, device="mps")
    assert type(caught.value) is RuntimeError


def test_running_out_of_the_cpus_memory_counts_where_it_is_the_target():
    with torchdevice_mode.redirect(target="cpu"):
        with pytest.raises(torch.OutOfMemoryError, match=r"out of memory\."):
            torch.empty(2**50, device="cuda")


@pytest.mark.simulated
def test_running_out_of_the_hosts_memory_is_the_hosts_error(redirected):
    with torchdevice_mode.cpu_override():
        with pytest.raises(RuntimeError, match="can't allocate memory") as caught:
            torch.empty(2**50)
    assert type(caught.value) is RuntimeError


def test_an_out_of_memory_error_that_the_program_raises_passes_as_it_is(redirected):
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise error

    with pytest.raises(torch.OutOfMemoryError) as caught:
        Fails.apply(torch.ones(1, device="cuda", requires_grad=True)).backward()
    assert caught.value is error

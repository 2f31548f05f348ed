"""torch.accelerator: a program is told of the target, torch itself of the machine."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch

import torchdevice_mode

pytestmark = pytest.mark.usefixtures("redirected")


def asked_in(module, code):
    """What code finds in a module of that name."""
    return eval(code, {"__name__": module, "torch": torch})


QUESTIONS = {
    "is_available": True,
    "device_count": 1,
    "current_device_index": 0,
}


@pytest.mark.parametrize(("name", "answer"), QUESTIONS.items())
def test_there_is_one_device(name, answer):
    assert getattr(torch.accelerator, name)() == answer


@pytest.mark.parametrize("check_available", [False, True])
def test_the_accelerator_is_the_target(check_available, target):
    found = torch.accelerator.current_accelerator(check_available)
    assert found == torch.accelerator.current_accelerator(check_available=check_available)
    assert found.type == target.type and found.index is None
    assert torch.zeros(1, device=found).device == target
    with torch.autocast(found.type, torch.bfloat16):
        assert (torch.ones(2, 2, device="cuda") @ torch.ones(2, 2, device="cuda")).dtype == (
            torch.bfloat16
        )


@pytest.mark.parametrize(
    "code",
    [f"torch.accelerator.{name}()" for name in ("is_available", "device_count")]
    + ["torch.accelerator.current_accelerator(True)"],
)
@pytest.mark.parametrize("module", ["torch.optim.optimizer", "torch", "torch._dynamo.utils"])
def test_torch_itself_is_told_what_the_machine_has(module, code):
    with torchdevice_mode.native():
        plain = asked_in(module, code)
    assert asked_in(module, code) == plain
    assert asked_in("torch_geometric.nn", code) == asked_in("__main__", code)


def test_outside_of_redirection_torch_answers():
    kept = torch.accelerator.is_available
    with torchdevice_mode.native():
        assert kept() is torch.accelerator.is_available()


# --- devices as arguments -----------------------------------------------------------------------

OF_A_DEVICE = [
    "synchronize",
    "current_stream",
    "get_device_capability",
    "memory_allocated",
    "memory_reserved",
    "max_memory_allocated",
    "max_memory_reserved",
    "memory_stats",
    "get_memory_info",
    "reset_peak_memory_stats",
    "reset_accumulated_memory_stats",
]
DEVICES = ["cuda", "cuda:3", 0, None, torch.device("cpu"), "mps", "xpu:1"]


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("name", OF_A_DEVICE)
def test_a_device_goes_through_the_policy(name, device):
    if not hasattr(torch.accelerator, name):
        pytest.skip("not in this torch")
    getattr(torch.accelerator, name)(device)


@pytest.mark.parametrize("name", ["set_device_index", "set_device_idx"])
@pytest.mark.filterwarnings("ignore:Use `set_device_index`")
def test_a_device_can_be_selected_by_index(name):
    select = getattr(torch.accelerator, name)
    for device in (0, "cuda:0", torch.device("cuda", 0), -1):
        select(device)
    for device in (None, "cuda"):
        with pytest.raises(ValueError, match="with a specified index or an integer"):
            select(device)
    assert torch.accelerator.current_device_index() == 0


def test_a_block_selects_a_device():
    for index in (0, None):
        with torch.accelerator.device_index(index) as nothing:
            assert torch.accelerator.current_device_index() == 0 and nothing is None
    assert isinstance(torch.accelerator.device_index(0), torch.accelerator.device_index)


@pytest.mark.parametrize("name", ["synchronize", "set_device_index", "memory_allocated"])
def test_a_device_that_is_not_there_is_refused(name, target):
    if target.type != "cpu":
        pytest.skip("torch takes every index on this target")
    with pytest.raises((RuntimeError, AssertionError, ValueError)):
        getattr(torch.accelerator, name)(5)
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.accelerator.device_index(5).__enter__()


def test_meta_is_no_accelerator(target):
    with pytest.raises(
        ValueError, match=f"meta doesn't match the current accelerator {target.type}"
    ):
        torch.accelerator.synchronize("meta")


@pytest.mark.parametrize(
    ("old", "arguments", "new"),
    [
        ("current_device_idx", (), "current_device_index"),
        ("set_device_idx", (0,), "set_device_index"),
    ],
)
def test_old_names_warn_at_the_callers_line(old, arguments, new):
    with pytest.warns(FutureWarning, match=f"Use `{new}` instead") as caught:
        getattr(torch.accelerator, old)(*arguments)
    assert caught[0].filename == __file__


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_the_dtypes_of_the_device_are_told():
    found = torch.accelerator.get_device_capability()["supported_dtypes"]
    assert {torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool} <= found
    for dtype in found:
        torch.zeros(1, device="cuda").to(dtype)


# --- streams ------------------------------------------------------------------------------------


def test_a_stream_can_be_set():
    before = torch.accelerator.current_stream()
    assert before == torch.cuda.default_stream()
    side = torch.Stream()
    torch.accelerator.set_stream(side)
    try:
        assert torch.accelerator.current_stream() == side == torch.cuda.current_stream()
        seen = []
        thread = threading.Thread(target=lambda: seen.append(torch.accelerator.current_stream()))
        thread.start()
        thread.join()
        assert seen == [before]
    finally:
        torch.accelerator.set_stream(before)
    with side:
        assert torch.accelerator.current_stream() == side
    assert torch.accelerator.current_stream() == before


@pytest.mark.parametrize("stream", [None, "cuda", 3])
def test_only_a_stream_can_be_set(stream):
    with pytest.raises(TypeError, match=r"must be torch\.Stream"):
        torch.accelerator.set_stream(stream)


def test_events_time_what_torch_accelerator_waits_for():
    start, end = torch.Event(enable_timing=True), torch.Event(enable_timing=True)
    start.record()
    torch.ones(8, device=torch.accelerator.current_accelerator()).sum()
    end.record()
    torch.accelerator.synchronize()
    assert start.elapsed_time(end) > 0


# --- memory -------------------------------------------------------------------------------------


def test_memory_is_what_torch_cuda_counts():
    kept = torch.ones(1 << 20, device="cuda")
    assert torch.accelerator.memory_allocated() >= kept.nbytes
    assert torch.accelerator.max_memory_allocated() >= torch.accelerator.memory_allocated()
    assert torch.accelerator.memory_reserved() > 0 and torch.accelerator.max_memory_reserved() > 0
    assert set(torch.accelerator.memory_stats()) == set(torch.cuda.memory_stats())
    if hasattr(torch.accelerator, "get_memory_info"):
        free, total = torch.accelerator.get_memory_info()
        assert 0 < free <= total == torch.cuda.mem_get_info()[1]


def test_a_peak_begins_anew():
    big = torch.ones(16 << 20, device="cuda")
    peak = torch.accelerator.max_memory_allocated()
    del big
    torch.accelerator.empty_cache()
    torch.accelerator.reset_peak_memory_stats()
    assert torch.accelerator.max_memory_allocated() < peak


@pytest.mark.parametrize("name", ["empty_cache", "empty_host_cache"])
def test_caches_can_be_emptied(name):
    if not hasattr(torch.accelerator, name):
        pytest.skip("not in this torch")
    assert getattr(torch.accelerator, name)() is None


# --- graphs -------------------------------------------------------------------------------------

needs_graphs = pytest.mark.skipif(
    not hasattr(torch.accelerator, "Graph"), reason="not in this torch"
)


@needs_graphs
@pytest.mark.parametrize("mode", ["default", "global", "thread_local", "relaxed"])
def test_a_graph_captures_a_block_and_replays_it(mode):
    x = torch.zeros(3, device="cuda")
    graph = torch.accelerator.Graph(capture_error_mode=mode)
    stream = torch.Stream()
    with stream, graph:
        assert stream.is_capturing()
        x += 1
    assert not stream.is_capturing()
    for _ in range(2):
        graph.replay()
    assert x.tolist() == [2, 2, 2]


@needs_graphs
def test_a_graph_is_captured_by_hand_again_and_into_a_pool():
    x = torch.zeros(1, device="cuda")
    first = torch.accelerator.Graph()
    with torch.Stream():
        first.capture_begin()
        x.add_(1)
        first.capture_end()
    second = torch.accelerator.Graph(keep_graph=True, pool=first.pool())
    with torch.Stream(), second:
        x.add_(10)
    second.instantiate()
    second.replay()
    assert second.pool() == first.pool() == second.graph_pool
    first.reset()
    with torch.Stream(), first:
        x.add_(100)
    first.replay()
    assert x.item() == 110


@needs_graphs
def test_a_graph_refuses_what_cuda_refuses():
    with pytest.raises(RuntimeError, match="non-default stream"):
        torch.accelerator.Graph().capture_begin()
    with pytest.raises(RuntimeError, match="without a preceding successful capture"):
        torch.accelerator.Graph().replay()
    with pytest.raises(RuntimeError, match="previous error during capture"):
        with torch.Stream(), torch.accelerator.Graph():
            torch.accelerator.synchronize()


# --- where else ---------------------------------------------------------------------------------


@pytest.mark.parametrize("device", [None, "cuda", "cuda:1", torch.device("cuda")], ids=str)
def test_the_module_of_the_device_is_cudas(device):
    arguments = () if device is None else (device,)
    assert torch.get_device_module(*arguments) is torch.cuda


def test_the_module_of_meta_is_torchs_answer():
    with pytest.raises(RuntimeError, match="meta"):
        torch.get_device_module("meta")


def test_compiled_code_finds_what_eager_code_finds(target):
    def where(x):
        if torch.accelerator.is_available() and torch.accelerator.device_count() == 1:
            device = torch.accelerator.current_accelerator()
            return x.to(device) + torch.accelerator.current_device_index()
        return None

    out = torch.compile(where, fullgraph=True, backend="eager")(torch.ones(2))
    assert out.device == target and out.tolist() == [1, 1]


def test_the_submodule_has_the_same_functions():
    for name in torch.accelerator.memory.__all__:
        assert getattr(torch.accelerator.memory, name) is getattr(torch.accelerator, name)


PROGRAM = """
import torch
device = torch.accelerator.current_accelerator(check_available=True)
model = torch.nn.Linear(4, 2).to(device)
optimizer = torch.optim.Adam(model.parameters())
loader = torch.utils.data.DataLoader(torch.randn(8, 4), batch_size=4, pin_memory=True)
for x in loader:
    loss = model(x.to(device, non_blocking=True)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
torch.accelerator.synchronize()
print("done", torch.accelerator.memory_allocated() >= 0)
"""


def test_a_program_for_any_accelerator_runs(tmp_path):
    program = tmp_path / "train.py"
    program.write_text(PROGRAM)
    options = ["--simulate", "mps"] if torch.backends.mps.is_available() else []
    done = subprocess.run(
        [sys.executable, "-m", "torchdevice", "run", *options, str(program)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "done True" in done.stdout, done.stderr

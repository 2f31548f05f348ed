"""torch.mps and torch.backends.mps where the machine has no MPS: on the CPU, and on CUDA."""

from __future__ import annotations

import importlib.util
import time

import pytest
import torch

import torchdevice_mode
from torchdevice_mode import redirect
from torchdevice_mode._log import forget_warnings
from torchdevice_mode._shims.mps import BACKEND, MPS
from torchdevice_mode.errors import TorchDeviceWarning, UnsupportedByTargetError

MIB = 2**20
# What torch 2.11 or 2.12 does not have yet.
NEWER = {"load_metallib", "_host_alias_storage", "is_macos_or_newer", "get_name", "get_core_count"}

pytestmark = pytest.mark.skipif(
    torch.backends.mps.is_available(), reason="torch.mps is MPS's own here"
)


@pytest.fixture(autouse=True)
def warnings_are_said_anew():
    forget_warnings()


@pytest.fixture
def mps_target() -> torch.device:
    """The device that requests for MPS get on this machine."""
    return torch.device(str(torchdevice_mode.explain("mps").device))


# --- the table ---------------------------------------------------------------------------------

ROWS = [(surface, name) for surface in (MPS, BACKEND) for name in surface.rows]


@pytest.mark.parametrize(("surface", "name"), ROWS, ids=[f"{s.root}.{n}" for s, n in ROWS])
def test_a_row_names_something_that_torch_has_and_says_why(surface, name):
    assert surface.plain(name) is not None or name in NEWER
    reason = surface.rows[name].reason
    assert reason and "\n" not in reason and not reason.endswith(".")


@pytest.mark.parametrize("module", [torch.mps, torch.backends.mps, torch.mps.event])
def test_the_module_is_plain_again_afterwards(module):
    before = {name: getattr(module, name) for name in dir(module)}
    with redirect():
        held = torch.mps.synchronize
        assert type(module).__name__ == "module"
    assert {name: getattr(module, name) for name in dir(module)} == before
    assert held is not torch.mps.synchronize


# --- whether there is MPS ----------------------------------------------------------------------

QUERIES = {
    "backend available": (lambda: torch.backends.mps.is_available(), True),
    "backend built": (lambda: torch.backends.mps.is_built(), True),
    "available": (lambda: torch.mps.is_available(), True),
    "count": (lambda: torch.mps.device_count(), 1),
    "macOS": (lambda: torch.backends.mps.is_macos_or_newer(14, 0), True),
    "macOS 13": (lambda: torch.backends.mps.is_macos13_or_newer(), True),
}


@pytest.mark.parametrize(("ask", "answer"), QUERIES.values(), ids=QUERIES)
def test_a_program_that_asks_for_mps_finds_it(redirected, ask, answer):
    assert ask() == answer
    with torchdevice_mode.native():
        try:
            assert not ask()
        except RuntimeError as error:  # of the version of macOS
            assert "without MPS backend" in str(error)


def test_an_installed_package_that_asks_goes_on_to_cuda(redirected, tmp_path):
    """Packages that know both take features away from MPS."""
    file = tmp_path / "site-packages" / "some_package.py"
    file.parent.mkdir()
    file.write_text(
        "import torch\n"
        "def found():\n"
        "    if torch.backends.mps.is_available() or torch.mps.device_count():\n"
        "        return 'mps'\n"
        "    return 'cuda' if torch.cuda.is_available() else 'cpu'\n"
    )
    spec = importlib.util.spec_from_file_location("some_package", file)
    package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    assert package.found() == "cuda"
    assert torch.backends.mps.is_available()


def test_torch_itself_finds_no_mps(redirected, mps_target):
    assert torch._utils._get_available_device_type() != "mps"


def test_the_device_says_what_it_is(redirected, mps_target):
    name, cores = torch.backends.mps.get_name(), torch.backends.mps.get_core_count()
    assert cores >= 1
    if mps_target.type == "cuda":
        assert name == torch.cuda.get_device_name()
    else:
        assert name.endswith("(CPU via torchdevice)")


def choose(x: torch.Tensor) -> torch.Tensor:
    return x.to("mps") * (2 if torch.backends.mps.is_available() else 3)


def test_compiled_code_finds_mps_too(redirected, mps_target):
    compiled = torch.compile(choose, fullgraph=True, backend="eager")
    result = compiled(torch.ones(2))
    assert result.device == mps_target
    assert result.tolist() == [2, 2]


# --- memory ------------------------------------------------------------------------------------


def test_memory_rises_and_falls_with_tensors(redirected):
    before = torch.mps.current_allocated_memory()
    x = torch.ones(16 * MIB, device="mps")
    assert torch.mps.current_allocated_memory() - before >= 60 * MIB
    assert torch.mps.driver_allocated_memory() >= torch.mps.current_allocated_memory()
    assert torch.mps.recommended_max_memory() > 64 * MIB
    del x
    torch.mps.empty_cache()
    assert torch.mps.current_allocated_memory() - before < 8 * MIB


@pytest.mark.parametrize(
    ("fraction", "error", "text"),
    [
        (1, TypeError, "Invalid type for fraction argument, must be `float`"),
        (-0.5, ValueError, "Invalid fraction value: -0.5. Allowed range: 0~2"),
        (2.5, ValueError, "Invalid fraction value: 2.5. Allowed range: 0~2"),
    ],
)
def test_a_bad_fraction_is_torchs_error(redirected, fraction, error, text):
    with pytest.raises(error) as raised:
        torch.mps.set_per_process_memory_fraction(fraction)
    assert str(raised.value) == text


def test_a_fraction_limits_what_can_be_limited(redirected, mps_target):
    try:
        if mps_target.type == "cuda":
            torch.mps.set_per_process_memory_fraction(1e-6)
            with pytest.raises(torch.OutOfMemoryError):
                torch.empty(64 * MIB, device="mps")
        else:
            with pytest.warns(TorchDeviceWarning, match="memory-fraction"):
                torch.mps.set_per_process_memory_fraction(0.5)
    finally:
        torch.mps.set_per_process_memory_fraction(0.0)
    assert torch.empty(64 * MIB, device="mps").device == mps_target


# --- random numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [torch.manual_seed, lambda n: torch.mps.manual_seed(n)])
def test_seeds_and_states_give_the_same_numbers(redirected, seed):
    seed(3)
    first = torch.randn(4, device="mps")
    state = torch.mps.get_rng_state()
    second = torch.randn(4, device="mps")
    seed(3)
    assert torch.equal(torch.randn(4, device="mps"), first)
    torch.mps.set_rng_state(state)
    assert torch.equal(torch.randn(4, device="mps"), second)
    torch.mps.seed()
    assert not torch.equal(torch.randn(4, device="mps"), second)


def test_a_generator_for_mps_is_the_targets(redirected, mps_target):
    draw = [
        torch.rand(3, device="mps", generator=torch.Generator("mps").manual_seed(1))
        for _ in range(2)
    ]
    assert torch.equal(*draw)
    assert draw[0].device == mps_target


# --- events ------------------------------------------------------------------------------------


def test_events_measure_real_time(redirected):
    start, end = (torch.mps.event.Event(enable_timing=True) for _ in range(2))
    assert isinstance(start, torch.mps.Event)
    start.record()
    assert not end.query()
    time.sleep(0.01)
    end.record()
    end.wait()
    end.synchronize()
    torch.mps.synchronize()
    assert start.query() and end.query()
    assert start.elapsed_time(end) >= 9


def test_events_out_of_order_or_without_time_have_mpss_errors(redirected):
    start, end = (torch.mps.Event(enable_timing=True) for _ in range(2))
    without = torch.mps.Event()
    with pytest.raises(RuntimeError, match="not created with argument 'enable_timing=True'"):
        start.elapsed_time(end)
    for event in (start, without, end):
        event.record()
    with pytest.raises(RuntimeError, match="not created with argument 'enable_timing=True'"):
        without.elapsed_time(end)
    with pytest.raises(RuntimeError, match="was not recorded after start event"):
        end.elapsed_time(start)


# --- Metal's own -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda: torch.mps.compile_shader("kernel void f() {}"),
        lambda: torch.mps.load_metallib(b"") if hasattr(torch.mps, "load_metallib") else refuse(),
        lambda: torch.mps.profiler.metal_capture("a"),
    ],
)
def test_metals_own_tools_say_why_not(redirected, call):
    with pytest.raises(UnsupportedByTargetError, match=r"^torch\.mps\.\S+ does not work on .*: "):
        call()


def refuse() -> None:
    torch.mps.compile_shader("")


def test_traces_are_left_out(redirected):
    with torch.mps.profiler.profile(mode="interval,event", wait_until_completed=True):
        torch.ones(1, device="mps")
    torch.mps.profiler.start()
    torch.mps.profiler.stop()
    assert not torch.mps.profiler.is_metal_capture_enabled()
    assert not torch.mps.profiler.is_capturing_metal()


# --- programs ----------------------------------------------------------------------------------

DEVICES = {
    "factory": lambda: torch.zeros(1, device="mps"),
    "index": lambda: torch.zeros(1, device="mps:0"),
    "device": lambda: torch.zeros(1, device=torch.device("mps")),
    "move": lambda: torch.zeros(1).to("mps"),
    "module": lambda: torch.nn.Linear(1, 1).to("mps").weight,
    "context": lambda: made_in_context(),
    "random": lambda: torch.randn(2, device="mps"),
}


def made_in_context() -> torch.Tensor:
    with torch.device("mps"):
        return torch.ones(1)


@pytest.mark.parametrize("make", DEVICES.values(), ids=DEVICES)
def test_requests_for_mps_go_to_the_target(redirected, mps_target, make):
    assert make().device == mps_target
    assert torch.device("mps").type == mps_target.type


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_training_step_for_mps_runs(redirected, mps_target, dtype):
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    model.to("mps")
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    scaler = torch.amp.GradScaler("mps")
    x = torch.randn(16, 4, device="mps")
    losses = []
    for _ in range(8):
        with torch.autocast("mps", dtype=dtype):
            assert model(x).dtype is dtype
            loss = (model(x).float() - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert model[0].weight.grad.device == mps_target


def test_a_checkpoint_of_mps_is_loaded(redirected, mps_target, tmp_path):
    torch.save(torch.ones(2, device="mps"), tmp_path / "x.pt")
    for location in (None, "mps", torch.device("mps"), {"mps": "mps"}):
        x = torch.load(tmp_path / "x.pt", map_location=location)
        assert x.tolist() == [1, 1]
        assert x.device == mps_target


@pytest.mark.parametrize("make", [torch.Stream, torch.Event], ids=["stream", "event"])
@pytest.mark.parametrize("device", ["mps", "mps:0", torch.device("mps", 0)], ids=str)
def test_streams_and_events_for_mps_are_the_targets(redirected, mps_target, make, device):
    made = [getattr(torch, make.__name__)(device), getattr(torch, make.__name__)(device=device)]
    for each in made:
        assert isinstance(each, make)
        assert each.device is None or each.device.type == mps_target.type


def test_a_state_that_the_program_moved_can_be_set(redirected):
    state = torch.get_rng_state()
    torch.set_rng_state(state.cpu())
    assert torch.equal(torch.get_rng_state(), state)


def test_numbers_of_mps_reach_numpy(redirected):
    assert torch.ones(2, device="mps").cpu().numpy().tolist() == [1, 1]


def test_random_state_is_kept_around_a_block(redirected):
    state = torch.mps.get_rng_state()
    with torch.random.fork_rng(devices=[0], device_type="mps"):
        torch.randn(3, device="mps")
    assert torch.equal(torch.mps.get_rng_state(), state)

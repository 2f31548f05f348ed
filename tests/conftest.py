"""Shared fixtures: the device under test, and the check that every test leaves torch alone."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import torchdevice_mode
from torchdevice_mode import _active, _override, _patches
from torchdevice_mode._settings import SETTINGS
from torchdevice_mode._shims import ALL_PATCHES

# The device to simulate: "mps" (or "1") or "cuda"; without it the tests run on what there is.
_asked = os.environ.get("TORCHDEVICE_TEST_SIMULATED", "")
SIMULATED = {"1": "mps", "0": ""}.get(_asked, _asked)

if SIMULATED:
    torchdevice_mode.simulate.load(SIMULATED)

# Who starts tests in the background may have interrupts ignored, and then programs that tests start
# and interrupt would ignore them, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    machine = torchdevice_mode.explain(None)
    return f"torch {torch.__version__}, default device under redirection: {machine.device}"


# What stands for CUDA where there is none; a machine with CUDA has the real one.
_ABOUT_STAND_INS = frozenset(
    f"shims/test_{name}.py"
    for name in (
        *("backends", "cuda_comm", "cuda_compile", "cuda_device", "cuda_graphs", "cuda_memory"),
        *("cuda_random", "cuda_seams", "cuda_streams", "cuda_surface", "cuda_tensor_types"),
        *("data_parallel", "generators", "rng_setting", "signatures", "accelerator"),
    )
)
# What takes operators and memory from the simulated mps, and reads Metal's error texts.
_ABOUT_METAL = frozenset({"test_fallback", "test_on_cpu", "test_out_of_memory", "test_verify"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    available = {"mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available()}
    # What a Mac is asked is rehearsed on the simulated mps, so that it can be asked.
    real = {**available, "cuda": available["cuda"] and SIMULATED != "cuda"}
    for item in items:
        for kind, present in real.items():
            if item.get_closest_marker(f"needs_{kind}") and not present:
                item.add_marker(pytest.mark.skip(reason=f"needs a real {kind} device"))
        if item.get_closest_marker("simulated") and not SIMULATED:
            item.add_marker(pytest.mark.skip(reason="needs a simulated device"))
        if item.get_closest_marker("simulated_mps") and SIMULATED != "mps":
            item.add_marker(pytest.mark.skip(reason="needs the simulated mps device"))
        module = item.path.stem
        place = f"{item.path.parent.name}/{item.path.name}"
        if module in _ABOUT_METAL and SIMULATED == "cuda":
            item.add_marker(pytest.mark.skip(reason="needs the simulated mps device"))
        about_stand_ins = item.get_closest_marker("off_cuda") or place in _ABOUT_STAND_INS
        if about_stand_ins and available["cuda"]:
            item.add_marker(pytest.mark.skip(reason="requests for CUDA are CUDA's own here"))


# torch sets variables of its own when parts of it are first used; these are ours to leave alone.
_VARIABLES = [row.variable for row in SETTINGS]
_VARIABLES += ["ACTIVATE_TORCH_DEVICE", "PYTORCH_ENABLE_MPS_FALLBACK", "TORCHDEVICE_LEDGERS"]


def _state() -> dict[str, object]:
    """Everything of torch and Python that a redirection replaces, by identity."""
    state: dict[str, object] = {
        "function modes": _get_current_function_mode_stack(),
        "dispatch modes": _get_current_dispatch_mode_stack(),
        "profile hook": threading.getprofile(),
        "active": _active.current(),
        "override": _override.active(),
        "environment": {name: os.environ.get(name) for name in _VARIABLES},
        "packages": list(torch.serialization._package_registry),
        "reducers": dict(vars(ForkingPickler)["_extra_reducers"]),
    }
    for patch in ALL_PATCHES:
        if isinstance(patch, _patches.Patch):
            owner = patch.owner()
            if owner is not None:
                key = f"{getattr(owner, '__name__', owner)}.{patch.name}"
                is_class = patch.name == "__class__"
                state[key] = type(owner) if is_class else vars(owner).get(patch.name, "absent")
    return state


@pytest.fixture(autouse=True)
def torch_is_left_as_it_was():
    """After every test each patch, mode stack, hook and variable is what it was."""
    before = _state()
    yield
    after = _state()
    different = [
        name
        for name in before
        if before[name] is not after[name]
        and (isinstance(before[name], (type, str)) or before[name] != after[name])
    ]
    assert not different, f"not restored: {different}"


@pytest.fixture(scope="module", autouse=True)
def garbage_is_looked_for_among_new_objects():
    """What a file finds, modules and tests above all, is left out when `gc.collect()` is called.

    To look through it takes a second, and libraries that are tested here do so in each training.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def fresh_dynamo():
    """Nothing is compiled before the test, and nothing is left compiled after it."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def redirected():
    """Redirection for one test."""
    with torchdevice_mode.redirect() as redirection:
        yield redirection


@pytest.fixture
def target() -> torch.device:
    """The device that requests for CUDA get on this machine."""
    decision = torchdevice_mode.explain("cuda")
    return torch.device(str(decision.device or "cuda:0"))


@pytest.fixture
def events(request: pytest.FixtureRequest) -> Callable[[str], int]:
    """Events of a kind that the ledger counted since the test began, on lines of its file."""
    file = str(request.path)

    def count() -> Counter[str]:
        found: Counter[str] = Counter()
        for entry in torchdevice_mode.ledger().entries():
            if entry.site.file == file:
                found[entry.site.kind] += entry.count
        return found

    before = count()
    return lambda kind: count()[kind] - before[kind]

"""Metal's own tools: shaders and captures have no meaning elsewhere, traces are left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ._surface import emulated, stubbed, unsupported

__all__: list[str] = []

_TRACES = "traces are for Apple's Instruments"

unsupported(
    "compile_shader",
    "load_metallib",
    reason="Metal shaders run on Apple's GPUs alone",
    instead="write the kernel with torch's operators where MPS is missing",
)
unsupported(
    "_host_alias_storage",
    reason="the target's memory is not Metal's",
    instead="copy with Tensor.cpu and Tensor.copy_",
)
unsupported(
    "profiler.metal_capture",
    reason="there are no Metal commands to capture",
    instead="use torch.profiler",
)


@stubbed("profiler.start", _TRACES)
def start(mode: str = "interval", wait_until_completed: bool = False) -> None:
    return None


@stubbed("profiler.stop", _TRACES)
def stop() -> None:
    return None


@stubbed("profiler.profile", _TRACES)
@contextmanager
def profile(mode: str = "interval", wait_until_completed: bool = False) -> Iterator[None]:
    yield


@emulated("profiler.is_metal_capture_enabled", "there are no Metal commands to capture")
def is_metal_capture_enabled() -> bool:
    return False


@emulated("profiler.is_capturing_metal", "there are no Metal commands to capture")
def is_capturing_metal() -> bool:
    return False

"""Whether there is MPS, what it is called, and waiting for it."""

from __future__ import annotations

from typing import Any

import torch

from ..cuda._device import synchronize_target
from ._surface import BACKEND, MPS, Trace, asked_by_program, emulated, mapped, target

__all__: list[str] = []

_CONSTANT = Trace.CONSTANT
_TO_PROGRAMS = "yes to the program's own files; packages go on to ask for CUDA, and lose less"

_plain_is_available = BACKEND.plain("is_available")
_plain_is_built = BACKEND.plain("is_built")
_plain_is_macos_or_newer = BACKEND.plain("is_macos_or_newer")
_plain_is_macos13_or_newer = BACKEND.plain("is_macos13_or_newer")


@BACKEND.emulated("is_available", _TO_PROGRAMS, trace=_CONSTANT)
def is_available() -> bool:
    return asked_by_program() or bool(_plain_is_available())


@BACKEND.emulated("is_built", _TO_PROGRAMS, trace=_CONSTANT)
def is_built() -> bool:
    return asked_by_program() or bool(_plain_is_built())


@emulated("is_available", _TO_PROGRAMS, trace=_CONSTANT)
def mps_is_available() -> bool:
    return asked_by_program() or bool(_plain_is_available())


@emulated("device_count", "one target stands for the one MPS device", trace=_CONSTANT)
def device_count() -> int:
    return int(asked_by_program() or bool(_plain_is_available()))


@BACKEND.emulated("is_macos_or_newer", "the target does what macOS came to do", trace=_CONSTANT)
def is_macos_or_newer(major: int, minor: int) -> bool:
    return asked_by_program() or bool(_plain_is_macos_or_newer(major, minor))


@BACKEND.emulated("is_macos13_or_newer", "the target does what macOS came to do", trace=_CONSTANT)
def is_macos13_or_newer(minor: int = 0) -> bool:
    return asked_by_program() or bool(_plain_is_macos13_or_newer(minor))


@BACKEND.mapped("get_name", "the target's name", trace=_CONSTANT)
def get_name() -> str:
    return str(_properties().name)


@BACKEND.mapped("get_core_count", "the target's cores", trace=_CONSTANT)
def get_core_count() -> int:
    return int(_properties().multi_processor_count)


def _properties() -> Any:
    device = MPS.target()
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device)
    from ..cuda._properties import properties

    return properties(device.type)


@mapped("synchronize", "waits for the target", trace=_CONSTANT)
def synchronize() -> None:
    synchronize_target(target(), "torch.mps.synchronize", always=True)

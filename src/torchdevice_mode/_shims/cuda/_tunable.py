"""`torch.cuda.tunable`: the settings of a tuner that only CUDA has are taken and remembered."""

from __future__ import annotations

from typing import Any

import torch.cuda.tunable  # noqa: F401 - rows look up what it has

from ._surface import emulated, unsupported

__all__: list[str] = []

_REMEMBERED = "remembered; nothing is tuned on the target"


class _Settings:
    """What CUDA has at the start."""

    enabled = False
    tuning = True
    records_untuned = False
    duration = 30
    iterations = 100
    filename = ""
    rotating_buffer = 0


_settings = _Settings()


@emulated("tunable.enable", _REMEMBERED)
def enable(val: bool = True) -> None:
    _settings.enabled = val


@emulated("tunable.is_enabled", _REMEMBERED)
def is_enabled() -> bool:
    return _settings.enabled


@emulated("tunable.tuning_enable", _REMEMBERED)
def tuning_enable(val: bool = True) -> None:
    _settings.tuning = val


@emulated("tunable.tuning_is_enabled", _REMEMBERED)
def tuning_is_enabled() -> bool:
    return _settings.tuning


@emulated("tunable.record_untuned_enable", _REMEMBERED)
def record_untuned_enable(val: bool = True) -> None:
    _settings.records_untuned = val


@emulated("tunable.record_untuned_is_enabled", _REMEMBERED)
def record_untuned_is_enabled() -> bool:
    return _settings.records_untuned


@emulated("tunable.set_max_tuning_duration", _REMEMBERED)
def set_max_tuning_duration(duration: int) -> None:
    _settings.duration = max(0, duration)


@emulated("tunable.get_max_tuning_duration", _REMEMBERED)
def get_max_tuning_duration() -> int:
    return _settings.duration


@emulated("tunable.set_max_tuning_iterations", _REMEMBERED)
def set_max_tuning_iterations(iterations: int) -> None:
    _settings.iterations = max(0, iterations)


@emulated("tunable.get_max_tuning_iterations", _REMEMBERED)
def get_max_tuning_iterations() -> int:
    return _settings.iterations


@emulated("tunable.set_filename", _REMEMBERED)
def set_filename(filename: str, insert_device_ordinal: bool = False) -> None:
    stem, dot, ending = filename.rpartition(".")
    numbered = f"{stem}0.{ending}" if dot else f"{filename}0"
    _settings.filename = numbered if insert_device_ordinal else filename


@emulated("tunable.get_filename", _REMEMBERED)
def get_filename() -> str:
    return _settings.filename


@emulated("tunable.set_rotating_buffer_size", _REMEMBERED)
def set_rotating_buffer_size(buffer_size: int) -> None:
    _settings.rotating_buffer = max(0, buffer_size) * 1024


@emulated("tunable.get_rotating_buffer_size", _REMEMBERED)
def get_rotating_buffer_size() -> int:
    return _settings.rotating_buffer


@emulated("tunable.set_numerical_check_tolerances", _REMEMBERED)
def set_numerical_check_tolerances(enable: bool, atol: float = 1e-5, rtol: float = 1e-5) -> None:
    return None


@emulated("tunable.get_results", "nothing was tuned")
def get_results() -> tuple[Any, ...]:
    return ()


@emulated("tunable.get_validators", "nothing was tuned")
def get_validators() -> tuple[Any, ...]:
    return ()


@emulated("tunable.read_file", "no results of CUDA's tuner are of use here")
def read_file(filename: str | None = None) -> bool:
    return False


unsupported(
    "tunable.tune_gemm_in_file",
    "tunable.mgpu_tune_gemm_in_file",
    reason="it times CUDA's kernels",
    instead="leave tuning out on this machine",
)

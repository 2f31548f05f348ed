"""Exceptions and warnings that torchdevice raises.

Errors about what the caller gave are also `ValueError` or `RuntimeError`, so that code
which knows nothing of torchdevice can catch them. Where torch has an error of its own for
bad input, torch's error is raised and nothing from here.
"""

from __future__ import annotations

__all__ = [
    "ReportError",
    "SettingsError",
    "SimulatorError",
    "TargetError",
    "TorchDeviceError",
    "TorchDeviceWarning",
    "UnsupportedByTargetError",
    "VerificationError",
]


class TorchDeviceError(Exception):
    """Base of every error that torchdevice itself raises."""


class SettingsError(TorchDeviceError, ValueError):
    """A setting has a value that it cannot have."""


class TargetError(TorchDeviceError, RuntimeError):
    """The target asked for is not a device of this machine."""


class SimulatorError(TorchDeviceError, RuntimeError):
    """The simulated accelerator cannot be built or loaded here."""


class UnsupportedByTargetError(TorchDeviceError, NotImplementedError):
    """A function of the requested accelerator has no meaning on the target."""


class VerificationError(TorchDeviceError, RuntimeError):
    """An operator of the target computed otherwise than the CPU's, and that was to raise."""


class ReportError(TorchDeviceError, RuntimeError):
    """A report cannot be written where it is wanted."""


class TorchDeviceWarning(UserWarning):
    """Something runs otherwise than the program asked; each carries a slug.

    Attributes:
        slug: Stable name of the warning. `docs/messages.md` has a section for each, and
            `TORCHDEVICE_SILENCE=slug,slug` silences it.
    """

    def __init__(self, message: str, slug: str = "general") -> None:
        super().__init__(message)
        self.slug = slug

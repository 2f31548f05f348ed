"""Run PyTorch code written for one accelerator, unmodified, on another.

`import torchdevice` gives the same names. Importing it does not import torch: names are
resolved when they are first used. (PYTEST_DONT_REWRITE: no assertions here for pytest to rewrite.)
"""

from __future__ import annotations

from .errors import (
    ReportError,
    SettingsError,
    SimulatorError,
    TargetError,
    TorchDeviceError,
    TorchDeviceWarning,
    UnsupportedByTargetError,
    VerificationError,
)

# Not that of `typing`: the start-up hook imports this in every Python that is to redirect, and
# most of those never import torch.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    from . import simulate
    from ._api import (
        Redirect,
        cpu_override,
        differences,
        disable,
        enable,
        explain,
        is_active,
        ledger,
        native,
        redirect,
        report,
        target,
    )
    from ._report import Report

__all__ = [
    "Redirect",
    "Report",
    "ReportError",
    "SettingsError",
    "SimulatorError",
    "TargetError",
    "TorchDeviceError",
    "TorchDeviceWarning",
    "UnsupportedByTargetError",
    "VerificationError",
    "__version__",
    "cpu_override",
    "differences",
    "disable",
    "enable",
    "explain",
    "is_active",
    "ledger",
    "native",
    "redirect",
    "report",
    "simulate",
    "target",
]

__version__ = "0.1.0"

_LAZY_MODULES = frozenset({"simulate"})


def _get(name: str) -> Any:
    if name in _LAZY_MODULES:
        from importlib import import_module

        return import_module(f".{name}", __name__)
    if name in __all__:
        module = "._report" if name == "Report" else "._api"
        value = getattr(_import_without_collecting(module), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if not TYPE_CHECKING:
    # Type checkers would take it that every name is there.
    __getattr__ = _get


def _import_without_collecting(module: str) -> ModuleType:
    """Import a module, with the garbage collector off.

    What an import makes stays, so that collecting finds nothing; but it would walk over all that
    torch has made, which takes milliseconds each time.
    """
    import gc
    from importlib import import_module

    enabled = gc.isenabled()
    gc.disable()
    try:
        return import_module(module, __name__)
    finally:
        if enabled:
            gc.enable()


def __dir__() -> list[str]:
    return sorted(__all__)

"""Begins redirection in a Python that starts: at the end of its `import torch`, if ever.

Two things lead here: the start-up hook (`torchdevice_start_up.pth`, installed beside the package),
which runs in every Python whose environment has `ACTIVATE_TORCH_DEVICE=1`; and what a redirected
program sends to the processes that it starts by `multiprocessing`. Most Pythons never import torch,
so this file imports next to nothing. And it breaks nothing: whatever goes wrong here is one
warning, and the program runs on plain torch.
"""

from __future__ import annotations

import os
import sys

from ._imports import when_imported
from ._variables import ACTIVATE, FALSE, SIMULATE, TRUE

# Not that of `typing`, which takes longer to import than this file.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["begin", "begin_as_told"]

# The processes in which Inductor compiles for this one are torch's own, and run no program.
_COMPILE_WORKER = os.path.join("torch", "_inductor", "compile_worker", "__main__.py")  # noqa: PTH118

_take_back: Callable[[], None] | None = None


def begin() -> None:
    """Redirect this process from the end of `import torch` on, if its environment asks for it."""
    global _take_back
    if _take_back is not None:
        _take_back()
        _take_back = None
    asked = os.environ.get(ACTIVATE, "").strip().lower()
    if asked in TRUE:
        _take_back = when_imported("torch", _enable)
        substitutes = os.environ.get("TORCHDEVICE_SUBSTITUTES", "")
        if substitutes:
            from ._packages import before_torch

            before_torch(substitutes.replace(" ", "").replace("-", "_").split(","))
    elif asked not in FALSE:
        _warn(f"{ACTIVATE}={asked!r} is neither true nor false: give 1 or 0.")


def begin_as_told(variables: Mapping[str, str | None]) -> None:
    """Redirect this process as the one that started it.

    Args:
        variables: Environment variables, for this process and those that it starts; None for
            one that is not to be set.
    """
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    begin()


def _enable() -> None:
    # Known by now, while it was not when the hook ran.
    if sys.argv and sys.argv[0].endswith(_COMPILE_WORKER):
        return
    from importlib import import_module

    try:
        package = import_module(__name__.partition(".")[0])
        device = os.environ.get(SIMULATE)
        if device:
            package.simulate.load(device)
        package.enable()
    except Exception as error:
        _warn(f"nothing is redirected in process {os.getpid()}: {error}")


def _warn(message: str) -> None:
    from ._log import tell

    tell("start-up", message)

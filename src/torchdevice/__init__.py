"""`import torchdevice`: the package `torchdevice_mode` under the name that users type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torchdevice_mode as _package
from torchdevice_mode import __all__, __version__  # noqa: F401

if TYPE_CHECKING:
    from torchdevice_mode import *  # noqa: F403

__all__ = __all__  # noqa: PLW0127 - the names come from the package


def __getattr__(name: str) -> Any:
    return getattr(_package, name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

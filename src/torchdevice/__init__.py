"""`import torchdevice`: the package `torchdevice_mode` under the name that users type."""

from __future__ import annotations

import torchdevice_mode as _package
from torchdevice_mode import __all__, __version__  # noqa: F401

# Not that of `typing`, which takes longer to import than both packages.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from torchdevice_mode import *  # noqa: F403

__all__ = __all__  # noqa: PLW0127 - the names come from the package


def __getattr__(name: str) -> Any:
    return getattr(_package, name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

"""`import torchdevice`: the package `torchdevice_mode` under the name that users type."""

from __future__ import annotations

import torchdevice_mode as _package
from torchdevice_mode import __version__ as __version__

# Not that of `typing`, which takes longer to import than both packages.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from torchdevice_mode import *  # noqa: F403
else:
    __all__ = _package.__all__

    def __getattr__(name):
        return getattr(_package, name)


def __dir__() -> list[str]:
    return sorted([*_package.__all__, "__version__"])

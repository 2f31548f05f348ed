"""torch.mps on another device: importing this package fills the tables and makes the patches."""

from __future__ import annotations

from .._module import module_patches
from . import _device, _event, _memory, _random, _tools  # noqa: F401 - for the rows they hold
from ._surface import BACKEND, MPS

__all__ = ["BACKEND", "MPS", "PATCHES"]

PATCHES = (*module_patches(MPS), *module_patches(BACKEND))

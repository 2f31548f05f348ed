"""torch.mps on another device: the tables, whose rows are imported when a name is first used."""

from __future__ import annotations

from .._module import module_patches
from ._surface import BACKEND, MPS

__all__ = ["BACKEND", "MPS", "PATCHES"]

PATCHES = (*module_patches(MPS), *module_patches(BACKEND))

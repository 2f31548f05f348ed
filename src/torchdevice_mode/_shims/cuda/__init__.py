"""torch.cuda on another device: importing this package fills the table and makes the patches."""

from __future__ import annotations

from .._module import module_patches
from . import (  # noqa: F401 - most are imported for the rows that they hold
    _device,
    _events,
    _memory,
    _random,
    _seams,
    _streams,
)
from ._surface import CUDA

__all__ = ["CUDA", "PATCHES"]

PATCHES = (
    *module_patches(CUDA),
    *_seams.PATCHES,
)

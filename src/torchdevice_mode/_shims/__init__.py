"""Seams: what of torch is replaced while redirection is on, because no mode can see it.

Every module here exports `PATCHES`, or has its rows in `_when_used.py`; this is the table of all
changes to torch.
"""

from __future__ import annotations

from .._patches import Hook, Patch
from . import (
    _when_used,
    accelerator,
    amp,
    autograd,
    backends,
    cuda,
    dataloader,
    distributed,
    generators,
    generic,
    gradients,
    mps,
    optim,
    processes,
    saving,
    serialization,
    threads,
    warn,
)
from ._surface import Surface

__all__ = ["ALL_PATCHES", "SURFACES"]

ALL_PATCHES: tuple[Patch | Hook, ...] = (
    *cuda.PATCHES,
    *backends.PATCHES,
    *accelerator.PATCHES,
    *mps.PATCHES,
    *amp.PATCHES,
    *generators.PATCHES,
    *generic.PATCHES,
    *autograd.PATCHES,
    *gradients.PATCHES,
    *dataloader.PATCHES,
    *distributed.PATCHES,
    *processes.PATCHES,
    *optim.PATCHES,
    *serialization.PATCHES,
    *saving.PATCHES,
    *threads.PATCHES,
    *warn.PATCHES,
    *_when_used.PATCHES,
)

SURFACES: tuple[Surface, ...] = (
    cuda.CUDA,
    backends.CUDA_LIBRARIES,
    backends.CUDNN,
    accelerator.ACCELERATOR,
    mps.MPS,
    mps.BACKEND,
)
"""The tables of modules of torch that are answered name by name."""

"""Seams: what of torch is replaced while redirection is on, because no mode can see it.

Every module here exports `PATCHES`; this is the table of all changes to torch.
"""

from __future__ import annotations

from .._patches import Hook, Patch
from . import (
    amp,
    autograd,
    backends,
    compiler,
    cuda,
    dataloader,
    generic,
    optim,
    script,
    serialization,
    threads,
    warn,
)

__all__ = ["ALL_PATCHES"]

ALL_PATCHES: tuple[Patch | Hook, ...] = (
    *cuda.PATCHES,
    *backends.PATCHES,
    *amp.PATCHES,
    *generic.PATCHES,
    *autograd.PATCHES,
    *compiler.PATCHES,
    *dataloader.PATCHES,
    *optim.PATCHES,
    *serialization.PATCHES,
    *script.PATCHES,
    *threads.PATCHES,
    *warn.PATCHES,
)

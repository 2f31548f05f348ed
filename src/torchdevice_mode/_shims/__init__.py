"""Seams: what of torch is replaced while redirection is on, because no mode can see it.

Every module here exports `PATCHES`; this is the table of all changes to torch.
"""

from __future__ import annotations

from .._patches import Hook, Patch
from . import (
    accelerator,
    amp,
    autograd,
    backends,
    compiled_float64,
    compiler,
    cuda,
    dataloader,
    distributed,
    export,
    generators,
    generic,
    gradients,
    inductor,
    library,
    mps,
    optim,
    packages,
    processes,
    rust,
    saving,
    script,
    script_files,
    serialization,
    sharded,
    testing,
    threads,
    tracing,
    unholdable,
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
    *library.PATCHES,
    *autograd.PATCHES,
    *gradients.PATCHES,
    *compiler.PATCHES,
    *compiled_float64.PATCHES,
    *inductor.PATCHES,
    *dataloader.PATCHES,
    *distributed.PATCHES,
    *processes.PATCHES,
    *optim.PATCHES,
    *serialization.PATCHES,
    *testing.PATCHES,
    *saving.PATCHES,
    *unholdable.PATCHES,
    *sharded.PATCHES,
    *rust.PATCHES,
    *packages.PATCHES,
    *export.PATCHES,
    *tracing.PATCHES,
    *script.PATCHES,
    *script_files.PATCHES,
    *threads.PATCHES,
    *warn.PATCHES,
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

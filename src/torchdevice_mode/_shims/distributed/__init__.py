"""`torch.distributed`: programs for NCCL, on whatever serves the target."""

from __future__ import annotations

from torch.distributed import is_available

from ..._patches import Hook, Patch

__all__ = ["PATCHES"]

PATCHES: tuple[Patch | Hook, ...] = ()

if is_available():
    from . import _data_parallel, _groups, _storage

    PATCHES = (
        *_groups.PATCHES,
        *_data_parallel.PATCHES,
        *_storage.PATCHES,
    )

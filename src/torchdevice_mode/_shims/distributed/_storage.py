"""Storages that change their size, as FSDP's do: not on every device does torch resize them.

FSDP frees what it has gathered by giving the storage the size zero, and gives it its size again
when it gathers the next time. Where torch refuses, a storage grows by the operator that does so for
tensors, and one that shrinks keeps its memory and says that it is smaller.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from ..._patches import Hook, Patch, Patches
from ._groups import redirection

__all__ = ["PATCHES"]

_REFUSED = "unexpected device type"
_SAID = "_torchdevice_size"
# Asking for a size is made slower only where a storage has been shrunk.
_telling = Patches()


def _resized(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def resize_(self: Any, size: int) -> Any:
        context = redirection()
        if context is None or self.device.type != context.target.type or self.device.type == "cpu":
            return original(self, size)
        try:
            return original(self, size)
        except RuntimeError as error:
            if _REFUSED not in str(error):
                raise
        held = _plain_nbytes(self)
        if size > held:
            with torch._C.DisableTorchFunction(), torch.no_grad():
                memory = torch.empty(0, dtype=torch.uint8, device=self.device)
                memory.set_(self).resize_(size)
        if not _telling.targets():
            _telling.install(_ABOUT_SIZE)
        setattr(self, _SAID, size)
        return self

    return resize_


_plain_nbytes = torch.UntypedStorage.nbytes


def _as_said(original: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(original)
    def size(self: Any) -> int:
        said = getattr(self, _SAID, None)
        return original(self) if said is None else int(said)

    return size


_NO_FUNCTION = "a method of storages, which no mode sees"
_ABOUT_SIZE = [
    Patch(lambda: torch.UntypedStorage, name, _as_said, _NO_FUNCTION)
    for name in ("nbytes", "size", "__len__")
]

PATCHES: tuple[Patch | Hook, ...] = (
    Hook(lambda: _telling.restore, "what was put in place when a storage shrank"),
    Patch(lambda: torch.UntypedStorage, "resize_", _resized, _NO_FUNCTION),
)

"""Tensors that a program keeps by `.cpu()`, and that change all the same.

On CUDA `x.cpu()` is a copy. Where the CPU and the accelerator are one device here it is `x`: who
keeps the weights of the best epoch that way keeps weights that go on changing. Nothing is copied to
prevent that, as most such calls only look at numbers; but who kept some that changed is told.
"""

from __future__ import annotations

import atexit
import types
import weakref
from functools import cache

import torch

from ._ledger import Place
from ._log import tell, user_frame

__all__ = ["Kept"]

# A tensor, and the storage that is asked, hold its memory; who shares it is a third.
_ALONE = 2
_AT_LEAST = 16
_all: weakref.WeakSet[Kept] = weakref.WeakSet()


class Kept:
    """What `.cpu()` gave back as it was, by the line of the program, for as long as it lives."""

    def __init__(self) -> None:
        self._tensors: dict[int, tuple[weakref.ref[torch.Tensor], int, Place]] = {}
        self._until_looking = _AT_LEAST
        _all.add(self)

    def note(self, tensor: torch.Tensor, frame: types.FrameType | None) -> None:
        """Remember a tensor if it shares its memory with another one, such as a module's weight.

        Args:
            tensor: What the call was given, and gave back; no subclass, and no inference tensor.
            frame: The frame that called torch.
        """
        user = user_frame(frame) if _is_shared(tensor) else None
        if user is None:
            return
        _look_at_the_end()
        place = Place(user.f_code, user.f_lineno, user.f_lasti)
        self._tensors[id(tensor)] = (weakref.ref(tensor), tensor._version, place)
        self._until_looking -= 1
        if self._until_looking <= 0:
            self.look()

    def look(self) -> None:
        """Say at which lines tensors were kept that are alive, and were written into since."""
        changed = {}
        with torch._C.DisableTorchFunction():
            for key, (reference, version, place) in self._tensors.copy().items():
                tensor = reference()
                if tensor is None:
                    self._tensors.pop(key, None)
                elif tensor._version != version and _is_shared(tensor):
                    self._tensors.pop(key, None)
                    changed[place.f_code, place.f_lineno] = (place, str(tensor.device))
        # As many are noted before the next look as are looked through then.
        self._until_looking = max(_AT_LEAST, len(self._tensors))
        for line, (place, device) in changed.items():
            tell(
                "kept-by-cpu",
                f'`.cpu()` copied nothing here, as "cuda" and "cpu" are both {device}, and the '
                f"memory that it gave has been written into since: add `.clone()` where the values "
                f"of that moment are meant.",
                key=line,
                place=place,
            )


@cache
def _look_at_the_end() -> None:
    """Have all that are left look when the process ends: what was enabled may never be disabled."""
    atexit.register(_look_at_all)


def _look_at_all() -> None:
    for kept in list(_all):
        kept.look()


def _is_shared(tensor: torch.Tensor) -> bool:
    if tensor.layout is not torch.strided:
        return False
    return torch._C._storage_Use_Count(tensor.untyped_storage()._cdata) > _ALONE

"""What a Linux build of torch leaves out on the Python side of the `mps` device."""

from __future__ import annotations

import ctypes
from typing import Any

__all__ = ["make_storages", "make_visible"]

_NAME = "Simulated MPS"
_CORES = 8


def make_visible(library: ctypes.CDLL) -> None:
    """Set the attributes and the constructor that a Linux build lacks; they stay set.

    Args:
        library: The loaded device.
    """
    import torch

    def is_in_bad_fork() -> bool:
        return bool(library.simulated_in_bad_fork())

    torch._C._has_mps = True
    for name, value in {
        "_mps_get_name": _NAME,
        "_mps_get_core_count": _CORES,
        "_mps_isCaptureEnabled": False,
        "_mps_isCapturing": False,
    }.items():
        if not hasattr(torch._C, name):
            setattr(torch._C, name, lambda value=value: value)
    setattr(torch._C, "_mps_is_in_bad_fork", is_in_bad_fork)
    setattr(torch.mps, "_is_in_bad_fork", is_in_bad_fork)


def make_storages(device_type: str) -> None:
    """Let `UntypedStorage(..., device=)` make one, which C++ does only for its own devices.

    Args:
        device_type: The simulated device.
    """
    import torch

    storage = torch.UntypedStorage
    plain_new: Any = storage.__new__

    def new(cls: type, *args: Any, **kwargs: Any) -> Any:
        device = kwargs.get("device")
        # A mode would take what is asked here for the program's own request.
        with torch._C.DisableTorchFunction():
            here = device is None or torch.device(device).type != device_type
        if here:
            return plain_new(cls, *args, **kwargs)
        # On the CPU first: torch checks the arguments, and a sequence gives the bytes.
        made = plain_new(cls, *args, **{**kwargs, "device": "cpu"})
        on_device = torch.empty(
            made.nbytes(), dtype=torch.uint8, device=device_type
        ).untyped_storage()
        if args and not isinstance(args[0], int):
            on_device.copy_(made)
        return on_device

    setattr(storage, "__new__", staticmethod(new))

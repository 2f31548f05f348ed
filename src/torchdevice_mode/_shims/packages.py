"""Packages that look at a device's type themselves, and find the target's where CUDA was asked for.

Under redirection `torch.device("cuda").type` is the target's, and no mode sees a package compare
it. Only what would keep a program from running, or from running right, is answered here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from .._active import current
from .._patches import Patch, imported

__all__ = ["PATCHES"]

_MEMORY = "accelerate.utils.modeling"
# The same code under two names.
_LIGHTNING = tuple(
    f"{package}.accelerators.cuda"
    for package in (
        *("lightning.fabric", "lightning.pytorch"),
        *("lightning_fabric", "pytorch_lightning"),
    )
)


def _one_name(original: Callable[..., bool]) -> Callable[..., bool]:
    @functools.wraps(original)
    def is_mps_available(*args: Any, **kwargs: Any) -> bool:
        return current() is None and original(*args, **kwargs)

    return is_mps_available


def _accepts_target(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def setup_device(self: Any, device: torch.device) -> None:
        context = current()
        if context is None or device.type != context.target.type or device.type == "cuda":
            return original(self, device)
        # What is left out beside the check advises on the tensor cores of NVIDIA's devices.
        return torch.cuda.set_device(device)

    return setup_device


PATCHES: dict[str, tuple[Patch, ...]] = {
    _MEMORY: (
        Patch(
            imported(_MEMORY),
            "is_mps_available",
            _one_name,
            'counts the memory of one device twice, as that of 0 and of "mps"',
        ),
    ),
    **{
        module: (
            Patch(
                imported(module, "CUDAAccelerator"),
                "setup_device",
                _accepts_target,
                'refuses every device whose type is not "cuda"',
            ),
        )
        for module in _LIGHTNING
    },
}

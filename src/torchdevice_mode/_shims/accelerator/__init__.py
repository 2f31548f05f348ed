"""`torch.accelerator`: the target, for programs that ask torch which accelerator there is.

On a machine without one, plain torch has no answer for most names, and the CPU stands for it. On
MPS torch's own answers are right, but for memory before torch 2.13, streams, and graphs. What is
counted and current is what `torch.cuda` says. torch's own code is told what the machine has.
"""

from __future__ import annotations

from .._module import module_patches
from ._surface import ACCELERATOR

__all__ = ["ACCELERATOR", "PATCHES"]

PATCHES = module_patches(ACCELERATOR)

"""`torch.distributed.checkpoint`: how tensors of the target reach the CPU to be written.

torch imports it late, with the first program that writes or reads sharded checkpoints.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from .._active import current
from .._patches import Patch

__all__ = ["PATCHES"]

_MODULE = "torch.distributed.checkpoint.filesystem"


def _writer() -> Any:
    """The module, if it has both of the loaders that we know."""
    module = sys.modules.get(_MODULE)
    known = ("_OverlappingCpuLoader", "_SerialCpuLoader")
    return module if all(hasattr(module, name) for name in known) else None


def _loader_of_the_target(overlapping: Callable[..., Any]) -> Callable[..., Any]:
    """Off CUDA the loader that waits for each copy, as torch itself takes there.

    The other one overlaps copies by means of CUDA's streams, and moves CUDA's tensors only.
    """

    @functools.wraps(overlapping)
    def loader(resolve_fun: Any, *args: Any, **kwargs: Any) -> Any:
        context = current()
        if context is None or context.target.type == "cuda":
            return overlapping(resolve_fun, *args, **kwargs)
        return sys.modules[_MODULE]._SerialCpuLoader(resolve_fun)

    return loader


PATCHES: dict[str, tuple[Patch, ...]] = {
    _MODULE: (
        Patch(
            _writer,
            "_OverlappingCpuLoader",
            _loader_of_the_target,
            "chosen where `torch.cuda.is_available()`, and knows of CUDA's tensors only",
        ),
    ),
}

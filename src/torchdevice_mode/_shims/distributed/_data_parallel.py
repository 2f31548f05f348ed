"""`DistributedDataParallel`: every rank of a machine names a device of its own, and has the one.

What the reducer does, in C++, is collectives on the target's tensors, which are served like all
others. Here is what it checks before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch.nn.modules.batchnorm import SyncBatchNorm
from torch.nn.parallel import DistributedDataParallel

from ..._patches import Patch
from ._groups import redirection

__all__ = ["PATCHES"]


def _on_the_one_device(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def __init__(  # noqa: N807 - it replaces one
        self: Any,
        module: Any,
        device_ids: Sequence[Any] | None = None,
        output_device: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        context = redirection()
        # More than one device is torch's own error.
        if context is not None and (device_ids is None or len(device_ids) <= 1):
            if context.target.type == "cpu":
                device_ids = output_device = None  # as torch wants it for modules on the CPU
            else:
                index = context.target.index or 0
                device_ids = None if device_ids is None else [index] * len(device_ids)
                output_device = None if output_device is None else index
        original(self, module, device_ids, output_device, *args, **kwargs)

    return __init__


def _on_any_device(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def _passing_sync_batchnorm_handle(self: Any, module: Any) -> None:
        if redirection() is None:
            original(self, module)

    return _passing_sync_batchnorm_handle


def _in_bfloat16(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def _check_comm_hook(self: Any, hook: Any) -> None:
        if redirection() is not None and getattr(hook, "__name__", "").startswith("bf16_compress"):
            # Torch knows these by name, and asks for a version of NCCL. Gloo adds bfloat16.
            hook = functools.partial(hook)
            hook.__name__ = "hook"
        original(self, hook)

    return _check_comm_hook


def _synchronised(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def forward(self: Any, input: Any) -> Any:
        if redirection() is None or not self.training:
            return original(self, input)
        from ._sync_batch_norm import normalize

        return normalize(self, input)

    return forward


PATCHES: tuple[Patch, ...] = (
    Patch(
        lambda: DistributedDataParallel,
        "__init__",
        _on_the_one_device,
        "the device is given by number, and one stands for all",
    ),
    Patch(
        lambda: DistributedDataParallel,
        "_passing_sync_batchnorm_handle",
        _on_any_device,
        "refuses SyncBatchNorm on the CPU, where torch has none",
    ),
    Patch(
        lambda: DistributedDataParallel,
        "_check_comm_hook",
        _in_bfloat16,
        "asks for a version of NCCL",
    ),
    Patch(
        lambda: SyncBatchNorm,
        "forward",
        _synchronised,
        "asks whether the input is on a GPU, and torch has its kernels for GPUs only",
    ),
)

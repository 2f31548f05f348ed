"""`apex.parallel`: gradients and batch norm over processes, by torch's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .._missing import unsupported

__all__ = ["DistributedDataParallel", "SyncBatchNorm", "convert_syncbn_model"]


def _refuse(name: str, given: dict[str, Any]) -> None:
    for argument, value in given.items():
        if value:
            raise unsupported(f"{name}({argument}={value!r})", "leave the argument out")


class DistributedDataParallel(nn.parallel.DistributedDataParallel):
    """Averages gradients over processes; torch's own under the name of Apex.

    Args:
        module: The model.
        message_size: No effect, like other arguments that say how messages are sent.
        delay_allreduce: Likewise.
        gradient_average: Raises unless True.
        gradient_predivide_factor: Raises unless 1.
        allreduce_always_fp32: Raises unless False.
        **others: No effect, or raise where results would differ.
    """

    def __init__(
        self,
        module: nn.Module,
        message_size: int = 10000000,
        delay_allreduce: bool = False,
        gradient_average: bool = True,
        gradient_predivide_factor: float = 1.0,
        allreduce_always_fp32: bool = False,
        **others: Any,
    ) -> None:
        name = "apex.parallel.DistributedDataParallel"
        _refuse(name, {"allreduce_always_fp32": allreduce_always_fp32})
        _refuse(name, {"retain_allreduce_buffers": others.get("retain_allreduce_buffers")})
        if not gradient_average:
            raise unsupported(f"{name}(gradient_average=False)", "multiply the loss instead")
        if gradient_predivide_factor != 1.0:
            raise unsupported(f"{name}(gradient_predivide_factor=...)", "leave it out")
        super().__init__(module, broadcast_buffers=False)


class SyncBatchNorm(nn.SyncBatchNorm):
    """Batch norm over the batches of all processes.

    Args:
        num_features: Channels.
        eps: Added to the variance.
        momentum: Of the running statistics.
        affine: Whether there is a weight.
        track_running_stats: Whether there are running statistics.
        process_group: Which processes; None for all.
        channel_last: Raises unless False.
        fuse_relu: Raises unless False.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        channel_last: bool = False,
        fuse_relu: bool = False,
    ) -> None:
        _refuse(
            "apex.parallel.SyncBatchNorm", {"channel_last": channel_last, "fuse_relu": fuse_relu}
        )
        super().__init__(num_features, eps, momentum, affine, track_running_stats, process_group)


def convert_syncbn_model(
    module: nn.Module, process_group: Any = None, channel_last: bool = False
) -> nn.Module:
    """Replace the batch norms of a model by ones over all processes.

    Args:
        module: The model.
        process_group: Which processes; None for all.
        channel_last: Raises unless False.

    Returns:
        The model, or what replaces it where it is a batch norm itself.
    """
    _refuse("apex.parallel.convert_syncbn_model", {"channel_last": channel_last})
    converted: Any = torch.nn.SyncBatchNorm.convert_sync_batchnorm(module, process_group)
    for part in converted.modules():
        if type(part) is nn.SyncBatchNorm:
            part.__class__ = SyncBatchNorm
    return converted

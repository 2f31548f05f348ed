"""`flash_attn.losses`: cross-entropy with label smoothing and the z-loss, in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._missing import unsupported

__all__ = ["CrossEntropyLoss", "cross_entropy_loss"]

_NAME = "flash_attn.ops.triton.cross_entropy.cross_entropy_loss"


def cross_entropy_loss(
    logits: Tensor,
    labels: Tensor,
    precomputed_lse: Tensor | None = None,
    label_smoothing: float = 0.0,
    logit_scale: float = 1.0,
    lse_square_scale: float = 0.0,
    ignore_index: int = -100,
    inplace_backward: bool = False,
    process_group: Any = None,
) -> tuple[Tensor, Tensor]:
    """The loss of each row.

    Args:
        logits: (batch, classes).
        labels: (batch,).
        precomputed_lse: Raises unless None.
        label_smoothing: Share of the label that is spread over all classes.
        logit_scale: What logits are multiplied by.
        lse_square_scale: Factor of the z-loss, the square of the logarithm of the sum of
            exponentials, which is part of the loss.
        ignore_index: Label of rows without a loss.
        inplace_backward: No effect: the gradient gets memory of its own.
        process_group: Raises unless None.

    Returns:
        Losses and z-losses, each (batch,) in float32; the latter have no gradient.

    Raises:
        UnsupportedByTargetError: With classes that are spread over processes.
    """
    if process_group is not None:
        raise unsupported(f"{_NAME}(process_group=...)", "gather the logits first")
    if precomputed_lse is not None:
        raise unsupported(f"{_NAME}(precomputed_lse=...)", "leave it out")
    scaled = logits.float() * logit_scale
    lse = torch.logsumexp(scaled, -1)
    ignored = labels == ignore_index
    label = scaled.gather(-1, labels.masked_fill(ignored, 0)[:, None])[:, 0]
    loss = lse - (1.0 - label_smoothing) * label
    if label_smoothing:
        loss = loss - label_smoothing * scaled.mean(-1)
    z_loss = lse_square_scale * lse * lse
    loss = (loss + z_loss).masked_fill(ignored, 0.0)
    return loss, z_loss.masked_fill(ignored, 0.0).detach()


class CrossEntropyLoss(nn.Module):
    """The loss of a batch.

    Args:
        ignore_index: Label of rows without a loss.
        reduction: `"mean"` over the rows with a loss, `"sum"` or `"none"`.
        label_smoothing: As for `cross_entropy_loss`, like the next three.
        logit_scale: Likewise.
        lse_square_scale: Likewise.
        inplace_backward: Likewise.
        process_group: Raises unless None.
        return_z_loss: Return the z-loss, too.
    """

    def __init__(
        self,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        logit_scale: float = 1.0,
        lse_square_scale: float = 0.0,
        inplace_backward: bool = False,
        process_group: Any = None,
        return_z_loss: bool = False,
    ) -> None:
        super().__init__()
        if reduction not in ("mean", "none", "sum"):
            raise NotImplementedError("Only support reduction = 'mean' or 'none' or 'sum'")
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.label_smoothing = label_smoothing
        self.logit_scale = logit_scale
        self.lse_square_scale = lse_square_scale
        self.inplace_backward = inplace_backward
        self.process_group = process_group
        self.return_z_loss = return_z_loss

    def forward(self, input: Tensor, target: Tensor, precomputed_lse: Tensor | None = None) -> Any:
        """The loss of logits (batch, classes) with labels (batch,)."""
        losses = cross_entropy_loss(
            input,
            target,
            precomputed_lse,
            self.label_smoothing,
            self.logit_scale,
            self.lse_square_scale,
            self.ignore_index,
            self.inplace_backward,
            self.process_group,
        )
        loss, z_loss = (self._reduced(one, target) for one in losses)
        return (loss, z_loss) if self.return_z_loss else loss

    def _reduced(self, losses: Tensor, target: Tensor) -> Tensor:
        if self.reduction == "mean":
            return losses.sum() / (target != self.ignore_index).sum()
        return losses.sum() if self.reduction == "sum" else losses

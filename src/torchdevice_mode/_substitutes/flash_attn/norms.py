"""`flash_attn.ops`: layer norm and RMS norm, computed in float32, with a residual added before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .._missing import unsupported

__all__ = ["RMSNorm", "layer_norm", "layer_norm_fn", "rms_norm", "rms_norm_fn"]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float) -> Tensor:
    """Layer norm over the last dimension.

    Args:
        x: (..., dim).
        weight: (dim,).
        bias: (dim,).
        epsilon: Added to the variance.

    Returns:
        Of the shape and type of `x`.
    """
    return _normed(x.float(), weight, bias, epsilon, rms=False).to(x.dtype)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """RMS norm over the last dimension.

    Args:
        x: (..., dim).
        weight: (dim,).
        epsilon: Added to the mean of squares.

    Returns:
        Of the shape and type of `x`.
    """
    return _normed(x.float(), weight, None, epsilon, rms=True).to(x.dtype)


def _normed(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, *, rms: bool
) -> Tensor:
    """Of float32 x, in float32."""
    weight = None if weight is None else weight.float()
    if not rms:
        own = None if bias is None else bias.float()
        return functional.layer_norm(x, x.shape[-1:], weight, own, eps)
    out = functional.rms_norm(x, x.shape[-1:], weight, eps)
    return out if bias is None else out + bias.float()


def layer_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    zero_centered_weight: bool = False,
    is_rms_norm: bool = False,
    return_dropout_mask: bool = False,
    out_dtype: torch.dtype | None = None,
    out: Tensor | None = None,
    residual_out: Tensor | None = None,
) -> Any:
    """Dropout, sum with a residual, and norm.

    Args:
        x: (..., dim).
        weight: (dim,).
        bias: (dim,), or None.
        residual: Of the shape of `x`, added before the norm.
        x1: Raises unless None, like the next two.
        weight1: Likewise.
        bias1: Likewise.
        eps: Added to the variance, or to the mean of squares.
        dropout_p: Share of `x` that is dropped.
        rowscale: Raises unless None.
        prenorm: Return the sum, too.
        residual_in_fp32: The sum is in float32 where no residual is given.
        zero_centered_weight: The weight is one more than `weight`.
        is_rms_norm: RMS norm rather than layer norm.
        return_dropout_mask: Raises unless False.
        out_dtype: Type of the result; by default that of `x`.
        out: Raises unless None, like the last.
        residual_out: Likewise.

    Returns:
        The norm; with `prenorm`, the norm and the sum, which has the residual's type.

    Raises:
        UnsupportedByTargetError: For an argument that has no effect here.
    """
    refused = {
        "x1": x1,
        "weight1": weight1,
        "bias1": bias1,
        "rowscale": rowscale,
        "return_dropout_mask": return_dropout_mask or None,
        "out": out,
        "residual_out": residual_out,
    }
    for name, value in refused.items():
        if value is not None:
            raise unsupported(f"flash_attn.ops.triton.layer_norm.layer_norm_fn({name}=...)")
    total = functional.dropout(x, dropout_p).float()
    kept = torch.float32 if residual_in_fp32 else x.dtype
    if residual is not None:
        total = total + residual.float()
        kept = residual.dtype
    weight = weight.float() + 1.0 if zero_centered_weight else weight
    normed = _normed(total, weight, bias, eps, rms=is_rms_norm).to(out_dtype or x.dtype)
    return (normed, total.to(kept)) if prenorm else normed


def rms_norm_fn(x: Tensor, weight: Tensor, bias: Tensor | None, *args: Any, **kwargs: Any) -> Any:
    """`layer_norm_fn` with RMS norm.

    Args:
        x: (..., dim).
        weight: (dim,).
        bias: (dim,), or None.
        *args: As for `layer_norm_fn`.
        **kwargs: Likewise.

    Returns:
        What `layer_norm_fn` returns.
    """
    kwargs["is_rms_norm"] = True
    return layer_norm_fn(x, weight, bias, *args, **kwargs)


class RMSNorm(nn.Module):
    """RMS norm with a weight.

    Args:
        hidden_size: Size of the last dimension.
        eps: Added to the mean of squares.
        dropout_p: Share that is dropped before, in training.
        zero_centered_weight: The weight is one more than the parameter.
        device: Of the parameter.
        dtype: Likewise.
    """

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        dropout_p: float = 0.0,
        zero_centered_weight: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.drop = nn.Dropout(dropout_p) if dropout_p > 0.0 else None
        self.zero_centered_weight = zero_centered_weight
        self.weight = nn.Parameter(torch.empty(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight so that it changes nothing."""
        nn.init.constant_(self.weight, 0.0 if self.zero_centered_weight else 1.0)

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None = None,
        prenorm: bool = False,
        residual_in_fp32: bool = False,
    ) -> Any:
        """The norm of `x`, or of its sum with a residual; see `layer_norm_fn`."""
        return rms_norm_fn(
            x,
            self.weight,
            None,
            residual=residual,
            eps=self.eps,
            dropout_p=self.drop.p if self.drop is not None and self.training else 0.0,
            prenorm=prenorm,
            residual_in_fp32=residual_in_fp32,
            zero_centered_weight=self.zero_centered_weight,
        )

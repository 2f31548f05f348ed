"""`apex.normalization`: layer norm and RMS norm, computed in float32."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "FusedLayerNorm",
    "FusedRMSNorm",
    "MixedFusedLayerNorm",
    "MixedFusedRMSNorm",
    "fused_layer_norm",
    "fused_layer_norm_affine",
    "fused_rms_norm",
    "fused_rms_norm_affine",
    "manual_rms_norm",
    "mixed_dtype_fused_layer_norm_affine",
    "mixed_dtype_fused_rms_norm_affine",
]


def _sizes(normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(normalized_shape, numbers.Integral):
        return (int(normalized_shape),)
    assert isinstance(normalized_shape, Sequence)
    return tuple(normalized_shape)


def _norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    shape: int | Sequence[int],
    eps: float,
    *,
    rms: bool,
    mixed: bool = False,
) -> Tensor:
    """In the type of `x`, or of the weight where mixed; under autocast in autocast's."""
    if torch.is_autocast_enabled(x.device.type):
        lower = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = (t if t is None else t.to(lower) for t in (x, weight, bias))  # type: ignore[assignment]
    dtype = weight.dtype if mixed and weight is not None else x.dtype
    with torch.autocast(x.device.type, enabled=False):
        own = None if weight is None else weight.float()
        sizes = _sizes(shape)
        if rms:
            return functional.rms_norm(x.float(), sizes, own, eps).to(dtype)
        own_bias = None if bias is None else bias.float()
        return functional.layer_norm(x.float(), sizes, own, own_bias, eps).to(dtype)


def fused_layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    eps: float = 1e-6,
    memory_efficient: bool = False,
) -> Tensor:
    """Layer norm without a weight.

    Args:
        input: (..., *normalized_shape).
        normalized_shape: The last sizes.
        eps: Added to the variance.
        memory_efficient: No effect.

    Returns:
        Of the shape and type of `input`.
    """
    return _norm(input, None, None, normalized_shape, eps, rms=False)


def fused_layer_norm_affine(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    normalized_shape: int | Sequence[int],
    eps: float = 1e-6,
    memory_efficient: bool = False,
) -> Tensor:
    """Layer norm; arguments as for `fused_layer_norm`."""
    return _norm(input, weight, bias, normalized_shape, eps, rms=False)


def mixed_dtype_fused_layer_norm_affine(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    normalized_shape: int | Sequence[int],
    eps: float = 1e-6,
    memory_efficient: bool = False,
) -> Tensor:
    """Layer norm, whose result has the weight's type; arguments as for `fused_layer_norm`."""
    return _norm(input, weight, bias, normalized_shape, eps, rms=False, mixed=True)


def fused_rms_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    eps: float = 1e-6,
    memory_efficient: bool = False,
) -> Tensor:
    """RMS norm without a weight; arguments as for `fused_layer_norm`."""
    return _norm(input, None, None, normalized_shape, eps, rms=True)


def fused_rms_norm_affine(
    input: Tensor,
    weight: Tensor,
    normalized_shape: int | Sequence[int],
    eps: float = 1e-6,
    memory_efficient: bool = False,
) -> Tensor:
    """RMS norm; arguments as for `fused_layer_norm`."""
    return _norm(input, weight, None, normalized_shape, eps, rms=True)


def mixed_dtype_fused_rms_norm_affine(
    input: Tensor,
    weight: Tensor,
    normalized_shape: int | Sequence[int],
    eps: float = 1e-6,
    memory_efficient: bool = False,
) -> Tensor:
    """RMS norm, whose result has the weight's type; arguments as for `fused_layer_norm`."""
    return _norm(input, weight, None, normalized_shape, eps, rms=True, mixed=True)


def manual_rms_norm(
    input: Tensor, normalized_shape: int | Sequence[int], weight: Tensor | None, eps: float
) -> Tensor:
    """RMS norm; arguments as for `fused_layer_norm`."""
    return _norm(input, weight, None, normalized_shape, eps, rms=True)


class FusedRMSNorm(nn.Module):
    """RMS norm over the last sizes.

    Args:
        normalized_shape: The last sizes.
        eps: Added to the mean of squares.
        elementwise_affine: Whether there is a weight.
        memory_efficient: No effect.
    """

    _rms = True
    _mixed = False
    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        memory_efficient: bool = False,
    ) -> None:
        super().__init__()
        self.normalized_shape = torch.Size(_sizes(normalized_shape))
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self.memory_efficient = memory_efficient
        names = ("weight",) if self._rms else ("weight", "bias")
        for name in names:
            value = nn.Parameter(torch.empty(self.normalized_shape)) if elementwise_affine else None
            self.register_parameter(name, value)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight so that it changes nothing."""
        if self.elementwise_affine:
            nn.init.ones_(self.weight)
            if not self._rms:
                nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """The norm of the input."""
        weight, bias = self.weight, None if self._rms else self.bias
        shape = self.normalized_shape
        return _norm(input, weight, bias, shape, self.eps, rms=self._rms, mixed=self._mixed)

    def extra_repr(self) -> str:
        """What the module was made with."""
        return (
            f"{tuple(self.normalized_shape)}, eps={self.eps}, "
            f"elementwise_affine={self.elementwise_affine}"
        )


class FusedLayerNorm(FusedRMSNorm):
    """Layer norm over the last sizes; arguments as for `FusedRMSNorm`, with a bias."""

    _rms = False


class _Mixed(FusedRMSNorm):
    _mixed = True

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float = 1e-5, **kwargs: Any
    ) -> None:
        if not kwargs.pop("elementwise_affine", True):
            raise RuntimeError(
                "a mixed norm has a weight: elementwise_affine=False is not supported"
            )
        super().__init__(normalized_shape, eps, True, **kwargs)


class MixedFusedLayerNorm(_Mixed, FusedLayerNorm):
    """Layer norm, whose result has the weight's type."""


class MixedFusedRMSNorm(_Mixed):
    """RMS norm, whose result has the weight's type."""

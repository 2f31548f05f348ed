"""`flash_attn.modules.mha`: attention as modules, without the layers around it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .interface import (
    flash_attn_kvpacked_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
)

__all__ = ["FlashCrossAttention", "FlashSelfAttention", "get_alibi_slopes"]


def get_alibi_slopes(nheads: int) -> list[float]:
    """The slopes of Press et al. 2021: a geometric sequence.

    Where the number of heads is no power of two, those of the next lower power, and every other
    one of the next higher.

    Args:
        nheads: Number of heads.

    Returns:
        One slope for each.
    """
    lower = 2 ** int(math.log2(nheads))
    slopes = [2.0 ** (-8.0 * (i + 1) / lower) for i in range(lower)]
    between = [2.0 ** (-8.0 * (i + 1) / (2 * lower)) for i in range(0, 2 * lower, 2)]
    return slopes + between[: nheads - lower]


class _Attention(nn.Module):
    """What both modules are told.

    Args:
        causal: As for `flash_attn_func`, like the others.
        softmax_scale: Likewise.
        attention_dropout: Share of the weights that is dropped in training.
        window_size: Likewise.
        alibi_slopes: Likewise.
        deterministic: Likewise.
    """

    def __init__(
        self,
        causal: bool = False,
        softmax_scale: float | None = None,
        attention_dropout: float = 0.0,
        window_size: tuple[int, int] = (-1, -1),
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
    ) -> None:
        super().__init__()
        self.causal = causal
        self.softmax_scale = softmax_scale
        self.drop = nn.Dropout(attention_dropout)
        self.register_buffer("alibi_slopes", alibi_slopes, persistent=False)
        self.window_size = window_size
        self.deterministic = deterministic

    def _how(self, causal: bool | None) -> dict[str, Any]:
        slopes = self.alibi_slopes
        return {
            "dropout_p": self.drop.p if self.training else 0.0,
            "softmax_scale": self.softmax_scale,
            "causal": self.causal if causal is None else causal,
            "alibi_slopes": slopes.to(torch.float32) if isinstance(slopes, Tensor) else None,
            "window_size": self.window_size,
            "deterministic": self.deterministic,
        }


class FlashSelfAttention(_Attention):
    """Attention of queries, keys and values in one tensor."""

    def forward(
        self,
        qkv: Tensor,
        causal: bool | None = None,
        cu_seqlens: Tensor | None = None,
        max_seqlen: int | None = None,
    ) -> Any:
        """As `flash_attn_qkvpacked_func`, or `..._varlen_...` where `cu_seqlens` is given."""
        if cu_seqlens is None:
            return flash_attn_qkvpacked_func(qkv, **self._how(causal))
        assert max_seqlen is not None
        return flash_attn_varlen_qkvpacked_func(qkv, cu_seqlens, max_seqlen, **self._how(causal))


class FlashCrossAttention(_Attention):
    """Attention of queries, with keys and values in one tensor."""

    def forward(
        self,
        q: Tensor,
        kv: Tensor,
        causal: bool | None = None,
        cu_seqlens: Tensor | None = None,
        max_seqlen: int | None = None,
        cu_seqlens_k: Tensor | None = None,
        max_seqlen_k: int | None = None,
    ) -> Any:
        """As `flash_attn_kvpacked_func`, or `..._varlen_...` where `cu_seqlens` is given."""
        if cu_seqlens is None:
            return flash_attn_kvpacked_func(q, kv, **self._how(causal))
        assert cu_seqlens_k is not None and max_seqlen is not None and max_seqlen_k is not None
        return flash_attn_varlen_kvpacked_func(
            q, kv, cu_seqlens, cu_seqlens_k, max_seqlen, max_seqlen_k, **self._how(causal)
        )

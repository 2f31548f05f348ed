"""`xformers.ops.memory_efficient_attention`, forward and backward by torch's operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._attention import Rule, attend, attend_each
from .blocks import BlockDiagonalMask, BlockDiagonalPaddedKeysMask
from .masks import (
    AttentionBias,
    LocalAttentionFromBottomRightMask,
    LowerTriangularFromBottomRightMask,
    LowerTriangularMask,
)

__all__ = [
    "AttentionBwOpBase",
    "AttentionFwOpBase",
    "AttentionOp",
    "BwOp",
    "FwOp",
    "MemoryEfficientAttentionCutlassOp",
    "MemoryEfficientAttentionFlashAttentionOp",
    "MemoryEfficientAttentionOp",
    "memory_efficient_attention",
    "memory_efficient_attention_forward",
    "memory_efficient_attention_forward_requires_grad",
]


_OWN = (
    LowerTriangularMask,
    LowerTriangularFromBottomRightMask,
    LocalAttentionFromBottomRightMask,
)


class AttentionFwOpBase:
    """Stands for a kernel that a program may name; all of them compute alike here."""

    NAME = "torchdevice"


class AttentionBwOpBase:
    """As `AttentionFwOpBase`, for the backward pass."""

    NAME = "torchdevice"


class FwOp(AttentionFwOpBase):
    """The forward kernel of a module such as `xformers.ops.fmha.flash`."""


class BwOp(AttentionBwOpBase):
    """The backward kernel of a module such as `xformers.ops.fmha.flash`."""


AttentionOp = tuple[type[AttentionFwOpBase] | None, type[AttentionBwOpBase] | None]
MemoryEfficientAttentionOp = (FwOp, BwOp)
MemoryEfficientAttentionCutlassOp = (FwOp, BwOp)
MemoryEfficientAttentionFlashAttentionOp = (FwOp, BwOp)


def memory_efficient_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_bias: Tensor | AttentionBias | None = None,
    p: float = 0.0,
    scale: float | None = None,
    *,
    op: Any = None,
    output_dtype: torch.dtype | None = None,
) -> Tensor:
    """Attention, softmax(query @ key.T * scale + attn_bias) @ value.

    Args:
        query: (batch, queries, heads, dim), (batch, queries, groups, heads, dim), or (batch,
            queries, dim) for one head.
        key: Likewise with its own length.
        value: Likewise.
        attn_bias: A mask of `xformers.ops.fmha.attn_bias`, or numbers to add to the scores:
            (batch, heads, queries, keys), with groups before the heads, or without heads, as
            `query` has them.
        p: Share of the weights that is dropped.
        scale: Default 1 / sqrt(dim).
        op: No effect: which of xFormers' kernels computes.
        output_dtype: Type of the result; by default that of `query`.

    Returns:
        Of the shape of `query`, with the last size of `value`.

    Raises:
        ValueError: For shapes that do not fit together.
    """
    out, _ = _attention(query, key, value, attn_bias, p, scale, with_lse=False)
    return out if output_dtype is None else out.to(output_dtype)


memory_efficient_attention_forward = memory_efficient_attention


def memory_efficient_attention_forward_requires_grad(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_bias: Tensor | AttentionBias | None = None,
    p: float = 0.0,
    scale: float | None = None,
    *,
    op: Any = None,
    output_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """As `memory_efficient_attention`, with the logarithms of the sums of exponentials.

    Args:
        query: As for `memory_efficient_attention`, like what follows.
        key: Likewise.
        value: Likewise.
        attn_bias: Likewise.
        p: Raises unless 0, as in xFormers.
        scale: Likewise.
        op: Likewise.
        output_dtype: Likewise.

    Returns:
        The result, and (batch, heads, queries) in float32, without a gradient.
    """
    if p != 0.0:
        raise NotImplementedError("dropout is not supported on the non-autograd API.")
    out, lse = _attention(query, key, value, attn_bias, p, scale, with_lse=True)
    assert lse is not None
    return (out if output_dtype is None else out.to(output_dtype)), lse


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | AttentionBias | None,
    p: float,
    scale: float | None,
    *,
    with_lse: bool,
) -> tuple[Tensor, Tensor | None]:
    _check(query, key, value)
    shape = query.shape
    q, k, v = (_four_dims(x) for x in (query, key, value))
    scale = float(shape[-1] ** -0.5) if scale is None else scale
    how: dict[str, Any] = {"scale": scale, "dropout_p": p, "with_lse": with_lse}
    if isinstance(bias, (BlockDiagonalMask, BlockDiagonalPaddedKeysMask)):
        if shape[0] != 1:
            raise ValueError(
                f"a block-diagonal mask is for a batch of 1, and query has {tuple(shape)}: put the "
                f"sequences one behind the other"
            )
        each, lse = attend_each(q[0], k[0], v[0], bias.ranges(), bias.rule, **how)
        out, lse = each[None], None if lse is None else lse[None]
    else:
        shape_of_bias = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
        out, lse = attend(q, k, v, _rule(bias, query, shape_of_bias), **how)
    out = out.reshape(*shape[:-1], value.shape[-1])
    if lse is not None and query.dim() == 5:
        lse = lse.unflatten(1, shape[2:4])
    return out, lse


def _rule(
    bias: Tensor | AttentionBias | None, query: Tensor, shape: tuple[int, int, int, int]
) -> Rule:
    dims = query.dim()
    if bias is None:
        return Rule()
    if isinstance(bias, Tensor):
        if bias.dim() != dims:
            raise ValueError(
                f"attn_bias has {bias.dim()} dimensions and query {dims}: give both the same"
            )
        return Rule(bias=_bias(bias))
    if not isinstance(bias, _OWN):
        # A class of the program's own.
        return Rule(bias=bias.materialize(shape, query.dtype, query.device))
    if bias.rule.bias is not None:
        return bias.rule._replace(bias=_bias(bias.rule.bias))
    return bias.rule


def _bias(bias: Tensor) -> Tensor:
    """Over all heads: (batch, heads, queries, keys)."""
    if bias.dim() == 3:
        return bias[:, None]
    return bias.flatten(1, 2) if bias.dim() == 5 else bias


def _four_dims(x: Tensor) -> Tensor:
    if x.dim() == 3:
        return x[:, :, None]
    return x.flatten(2, 3) if x.dim() == 5 else x


def _check(query: Tensor, key: Tensor, value: Tensor) -> None:
    dims = query.dim()
    if dims not in (3, 4, 5) or key.dim() != dims or value.dim() != dims:
        raise ValueError(
            f"Invalid number of dimensions: query {query.dim()}, key {key.dim()}, value "
            f"{value.dim()}; give 3, 4 or 5 to all"
        )
    same = query.shape[2:] == key.shape[2:] and key.shape[1:-1] == value.shape[1:-1]
    if not same or not query.shape[0] == key.shape[0] == value.shape[0]:
        raise ValueError(
            f"Incompatible shapes: query {tuple(query.shape)}, key {tuple(key.shape)}, value "
            f"{tuple(value.shape)}; expand the heads of keys and values first"
        )
    if not query.dtype == key.dtype == value.dtype:
        raise ValueError("Query/Key/Value should either all have the same dtype")

"""`flash_attn.flash_attn_interface`: the attention functions, padded and of variable lengths."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .._attention import Rule, attend, attend_each
from .._missing import unsupported

__all__ = [
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
]


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:
    """Attention of a batch of sequences.

    Args:
        q: (batch, seqlen_q, nheads, headdim), float16 or bfloat16.
        k: (batch, seqlen_k, nheads_k, headdim); nheads is a multiple of nheads_k.
        v: As `k`.
        dropout_p: Share of the weights that is dropped.
        softmax_scale: Default 1 / sqrt(headdim).
        causal: The last query sees the last key, the one before it the key before, and so on.
        window_size: How many keys each query sees to its left and right; -1 for all.
        softcap: Bound of the scores, by tanh; 0 for none.
        alibi_slopes: (nheads,) or (batch, nheads).
        deterministic: No effect: the results of torch's operators do not depend on it.
        return_attn_probs: Return the logarithms of the sums, too.

    Returns:
        Of the shape of `q`; with `return_attn_probs` also (batch, nheads, seqlen_q) in float32,
        which has no gradient, and an empty tensor for the weights.

    Raises:
        RuntimeError: For a type of numbers or shapes that flash_attn refuses.
    """
    scale = check(q, k, v, softmax_scale)
    _check_shapes(q, k, v, ("batch_size, seqlen_q", "batch_size, seqlen_k"))
    _check_softcap(softcap, dropout_p)
    _refuse_probabilities("flash_attn.flash_attn_func", return_attn_probs, dropout_p)
    rule = rule_of(causal, window_size, softcap, alibi_slopes)
    out, lse = attend(q, k, v, rule, scale=scale, dropout_p=dropout_p, with_lse=return_attn_probs)
    return (out, lse, q.new_empty(0)) if return_attn_probs else out


def flash_attn_qkvpacked_func(
    qkv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:
    """`flash_attn_func` of queries, keys and values in one tensor.

    Args:
        qkv: (batch, seqlen, 3, nheads, headdim).
        dropout_p: As for `flash_attn_func`, like what follows.
        softmax_scale: Likewise.
        causal: Likewise.
        window_size: Likewise.
        softcap: Likewise.
        alibi_slopes: Likewise.
        deterministic: Likewise.
        return_attn_probs: Likewise.

    Returns:
        (batch, seqlen, nheads, headdim), and what else `flash_attn_func` returns.
    """
    q, k, v = qkv.unbind(2)
    return flash_attn_func(
        q,
        k,
        v,
        dropout_p,
        softmax_scale,
        causal,
        window_size,
        softcap,
        alibi_slopes,
        deterministic,
        return_attn_probs,
    )


def flash_attn_kvpacked_func(
    q: Tensor,
    kv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:
    """`flash_attn_func` of keys and values in one tensor.

    Args:
        q: (batch, seqlen_q, nheads, headdim).
        kv: (batch, seqlen_k, 2, nheads_k, headdim).
        dropout_p: As for `flash_attn_func`, like what follows.
        softmax_scale: Likewise.
        causal: Likewise.
        window_size: Likewise.
        softcap: Likewise.
        alibi_slopes: Likewise.
        deterministic: Likewise.
        return_attn_probs: Likewise.

    Returns:
        What `flash_attn_func` returns.
    """
    k, v = kv.unbind(2)
    return flash_attn_func(
        q,
        k,
        v,
        dropout_p,
        softmax_scale,
        causal,
        window_size,
        softcap,
        alibi_slopes,
        deterministic,
        return_attn_probs,
    )


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
) -> Any:
    """Attention of sequences of several lengths, one behind the other.

    Args:
        q: (total_q, nheads, headdim).
        k: (total_k, nheads_k, headdim).
        v: As `k`.
        cu_seqlens_q: (batch + 1,): where each sequence of queries begins, and the end.
        cu_seqlens_k: The same of the keys.
        max_seqlen_q: Length of the longest sequence of queries.
        max_seqlen_k: Length of the longest sequence of keys.
        dropout_p: As for `flash_attn_func`, like what follows.
        softmax_scale: Likewise.
        causal: Likewise.
        window_size: Likewise.
        softcap: Likewise.
        alibi_slopes: (nheads,) or (batch, nheads).
        deterministic: As for `flash_attn_func`.
        return_attn_probs: Return the logarithms of the sums, too.
        block_table: Raises unless None.

    Returns:
        Of the shape of `q`; with `return_attn_probs` also (nheads, total_q) in float32, which has
        no gradient, and an empty tensor for the weights.

    Raises:
        RuntimeError: For a type of numbers or shapes that flash_attn refuses.
        UnsupportedByTargetError: With a `block_table`.
    """
    name = "flash_attn.flash_attn_varlen_func"
    scale = check(q, k, v, softmax_scale)
    if block_table is not None:
        raise unsupported(f"{name}(block_table=...)", "call flash_attn_with_kvcache")
    _check_shapes(q, k, v, ("total_q", "total_k"))
    _check_softcap(softcap, dropout_p)
    _check_lengths(cu_seqlens_q, cu_seqlens_k)
    _refuse_probabilities(name, return_attn_probs, dropout_p)
    rule = rule_of(causal, window_size, softcap, alibi_slopes)
    compute = _by_padding if is_compiling() else _one_by_one
    out, lse = compute(
        (q, k, v),
        (cu_seqlens_q, cu_seqlens_k),
        (int(max_seqlen_q), int(max_seqlen_k)),
        rule,
        {"scale": scale, "dropout_p": dropout_p, "with_lse": return_attn_probs},
    )
    return (out, lse, q.new_empty(0)) if return_attn_probs else out


def flash_attn_varlen_qkvpacked_func(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:
    """`flash_attn_varlen_func` of queries, keys and values in one tensor.

    Args:
        qkv: (total, 3, nheads, headdim).
        cu_seqlens: (batch + 1,): where each sequence begins, and the end.
        max_seqlen: Length of the longest.
        dropout_p: As for `flash_attn_func`, like what follows.
        softmax_scale: Likewise.
        causal: Likewise.
        window_size: Likewise.
        softcap: Likewise.
        alibi_slopes: Likewise.
        deterministic: Likewise.
        return_attn_probs: Likewise.

    Returns:
        What `flash_attn_varlen_func` returns.
    """
    q, k, v = qkv.unbind(1)
    return flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens,
        cu_seqlens,
        max_seqlen,
        max_seqlen,
        dropout_p,
        softmax_scale,
        causal,
        window_size,
        softcap,
        alibi_slopes,
        deterministic,
        return_attn_probs,
    )


def flash_attn_varlen_kvpacked_func(
    q: Tensor,
    kv: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:
    """`flash_attn_varlen_func` of keys and values in one tensor.

    Args:
        q: (total_q, nheads, headdim).
        kv: (total_k, 2, nheads_k, headdim).
        cu_seqlens_q: As for `flash_attn_varlen_func`, like what follows.
        cu_seqlens_k: Likewise.
        max_seqlen_q: Likewise.
        max_seqlen_k: Likewise.
        dropout_p: Likewise.
        softmax_scale: Likewise.
        causal: Likewise.
        window_size: Likewise.
        softcap: Likewise.
        alibi_slopes: Likewise.
        deterministic: Likewise.
        return_attn_probs: Likewise.

    Returns:
        What `flash_attn_varlen_func` returns.
    """
    k, v = kv.unbind(1)
    return flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout_p,
        softmax_scale,
        causal,
        window_size,
        softcap,
        alibi_slopes,
        deterministic,
        return_attn_probs,
    )


# --- parts -------------------------------------------------------------------------------------


def rule_of(
    causal: bool, window_size: tuple[int, int], softcap: float, slopes: Tensor | None
) -> Rule:
    """The rule that the arguments mean; a negative window is none."""
    left, right = (None if side is None or side < 0 else side for side in window_size)
    return Rule(left, 0 if causal else right, softcap, slopes)


def check(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> float:
    """The scale, after what flash_attn's kernels check, with their texts."""
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
    if k.dtype != q.dtype:
        raise RuntimeError("query and key must have the same dtype")
    if v.dtype != q.dtype:
        raise RuntimeError("query and value must have the same dtype")
    if q.shape[-1] > 256:
        raise RuntimeError("FlashAttention forward only supports head dimension at most 256")
    if q.shape[-2] % k.shape[-2]:
        raise RuntimeError("Number of heads in key/value must divide number of heads in query")
    return float(q.shape[-1] ** -0.5) if scale is None else scale


def _check_shapes(q: Tensor, k: Tensor, v: Tensor, before: tuple[str, str]) -> None:
    """Compare shapes; `before` names the sizes before the heads, of queries and of keys."""
    dims = before[0].count(",") + 3
    own = f"({before[0]}, num_heads, head_size)"
    other = f"({before[1]}, num_heads_k, head_size)"
    if q.dim() != dims:
        raise RuntimeError(f"q must have shape {own}")
    one_batch = dims == 3 or q.shape[0] == k.shape[0]
    if k.dim() != dims or k.shape[-1] != q.shape[-1] or not one_batch:
        raise RuntimeError(f"k must have shape {other}")
    if v.shape != k.shape:
        raise RuntimeError(f"v must have shape {other}")


def _check_softcap(softcap: float, dropout_p: float) -> None:
    if softcap > 0 and dropout_p:
        raise RuntimeError("Softcapping does not support dropout for now")


def _check_lengths(cu_seqlens_q: Tensor, cu_seqlens_k: Tensor) -> None:
    for name, cu in (("cu_seqlens_q", cu_seqlens_q), ("cu_seqlens_k", cu_seqlens_k)):
        if cu.dtype != torch.int32:
            raise RuntimeError(f"{name} must have dtype int32")
    if cu_seqlens_q.numel() < 2:
        raise RuntimeError("batch size must be positive")
    if cu_seqlens_k.shape != cu_seqlens_q.shape:
        raise RuntimeError("cu_seqlens_k must have shape (batch_size + 1)")


def _refuse_probabilities(name: str, asked: bool, dropout_p: float) -> None:
    if asked and dropout_p:
        raise unsupported(
            f"{name}(return_attn_probs=True) with dropout_p", "compute the weights with torch"
        )


def _one_by_one(
    qkv: tuple[Tensor, Tensor, Tensor],
    cu_seqlens: tuple[Tensor, Tensor],
    longest: tuple[int, int],
    rule: Rule,
    how: dict[str, Any],
) -> tuple[Tensor, Tensor | None]:
    """Each sequence for itself; all at once where they are of one length."""
    starts_q, starts_k = (cu.tolist() for cu in cu_seqlens)
    pairs = zip(pairwise(starts_q), pairwise(starts_k), strict=True)
    ranges = [(*queries, *keys) for queries, keys in pairs]
    return attend_each(*qkv, ranges, rule, **how)


def _by_padding(
    qkv: tuple[Tensor, Tensor, Tensor],
    cu_seqlens: tuple[Tensor, Tensor],
    longest: tuple[int, int],
    rule: Rule,
    how: dict[str, Any],
) -> tuple[Tensor, Tensor | None]:
    """All at once, padded: nothing asks the device how long they are, so that this compiles."""
    q = qkv[0]
    places = [_places(cu, most) for cu, most in zip(cu_seqlens, longest, strict=True)]
    lengths_q, lengths_k = (cu[1:] - cu[:-1] for cu in cu_seqlens)
    padded = [x[at.clamp(max=x.shape[0] - 1)] for x, at in zip(qkv, _twice(places), strict=True)]
    rule = rule._replace(lengths=lengths_k, queries=lengths_q)
    out, lse = attend(padded[0], padded[1], padded[2], rule, **how)
    # Where each token of the result stands in the padded one.
    token = torch.arange(q.shape[0], device=q.device)
    sequence = torch.bucketize(token, cu_seqlens[0][1:], right=True)
    sequence = sequence.clamp(max=lengths_q.shape[0] - 1)
    place = (token - cu_seqlens[0][sequence]).clamp(max=longest[0] - 1)
    return out[sequence, place], None if lse is None else lse[sequence, :, place].T


def _twice(places: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    return places[0], places[1], places[1]


def _places(cu_seqlens: Tensor, longest: int) -> Tensor:
    """(batch, longest): the token at each place of each sequence."""
    return cu_seqlens[:-1, None] + torch.arange(longest, device=cu_seqlens.device)

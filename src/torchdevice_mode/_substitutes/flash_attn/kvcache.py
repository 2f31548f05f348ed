"""`flash_attn_with_kvcache`: attention over a cache that grows by the new keys and values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .._attention import Rule, attend
from .._missing import unsupported
from .interface import check, rule_of
from .rotary import apply_rotary_emb

__all__ = ["flash_attn_with_kvcache"]

_NAME = "flash_attn.flash_attn_with_kvcache"
_PAGE = 256  # what the size of a page must be a multiple of


@torch.no_grad()
def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    cache_seqlens: int | Tensor | None = None,
    cache_batch_idx: Tensor | None = None,
    cache_leftpad: Tensor | None = None,
    block_table: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: Tensor | None = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
) -> Any:
    """Write new keys and values into the cache, and attend to all that is in it. No gradients.

    Args:
        q: (batch, seqlen_q, nheads, headdim), float16 or bfloat16.
        k_cache: (batch_cache, seqlen_cache, nheads_k, headdim), or (blocks, page size, nheads_k,
            headdim) with a `block_table`; a page's size is a multiple of 256.
        v_cache: As `k_cache`.
        k: (batch, seqlen_new, nheads_k, headdim), written behind the cache's own.
        v: As `k`.
        rotary_cos: (seqlen_rotary, rotary_dim / 2): rotate `k`, and `q`, by their positions.
        rotary_sin: As `rotary_cos`.
        cache_seqlens: How much of the cache is filled: one length, or (batch,).
        cache_batch_idx: (batch,): the entry of the cache for each entry of the batch.
        cache_leftpad: (batch,): where the filled part begins.
        block_table: (batch, blocks): the pages of each entry of the batch.
        softmax_scale: As for `flash_attn_func`, like the next three.
        causal: Likewise.
        window_size: Likewise.
        softcap: Likewise.
        rotary_interleaved: Rotate neighbours, rather than a number of each half.
        alibi_slopes: As for `flash_attn_func`.
        num_splits: No effect: how a kernel divides its work.
        return_softmax_lse: Return the logarithms of the sums, too.

    Returns:
        Of the shape of `q`; with `return_softmax_lse` also (batch, nheads, seqlen_q), float32.

    Raises:
        RuntimeError: For a type of numbers or arguments that flash_attn refuses.
        UnsupportedByTargetError: For `cache_leftpad` with rotation.
    """
    batch = q.shape[0]
    scale = check(q, k_cache, v_cache, softmax_scale)
    if block_table is not None:
        if cache_batch_idx is not None or cache_leftpad is not None:
            raise RuntimeError("Paged KVcache does not support cache_batch_idx or cache_leftpad")
        if k_cache.shape[1] % _PAGE:
            raise RuntimeError("Paged KV cache block size must be divisible by 256")
    if k is not None and cache_seqlens is None:
        raise RuntimeError("If key is supplied, seqlens_k must also be passed in")
    before = _lengths(cache_seqlens, batch, q.device)
    if rotary_cos is not None and rotary_sin is not None:
        if k is None or before is None:
            raise RuntimeError(
                "If rotary cos/sin are provided, new key / value to be appended to KV cache must "
                "also be provided"
            )
        if cache_leftpad is not None:
            raise unsupported(f"{_NAME}(cache_leftpad=..., rotary_cos=...)", "rotate beforehand")
        q, k = _rotated(
            q,
            k,
            rotary_cos,
            rotary_sin,
            before,
            rotary_interleaved,
            in_order=causal or tuple(window_size) != (-1, -1),
        )
    entries = cache_batch_idx
    new = 0
    if k is not None:
        assert v is not None and before is not None
        new = k.shape[1]
        at = before[:, None] + torch.arange(new, device=q.device)
        rows, columns = _cells(at, entries, block_table, k_cache.shape[1])
        k_cache[rows, columns] = k.to(k_cache.dtype)
        v_cache[rows, columns] = v.to(v_cache.dtype)
    keys, values = _read(k_cache, v_cache, entries, block_table, batch)
    if isinstance(cache_seqlens, int) and cache_leftpad is None:
        most = cache_seqlens + new
        keys, values, lengths = keys[:, :most], values[:, :most], None
    else:
        lengths = None if before is None else before + new
        if lengths is not None and lengths.device.type == "cpu" and not is_compiling():
            # To look costs nothing there.
            most = int(lengths.max())
            keys, values = keys[:, :most], values[:, :most]
    if cache_leftpad is not None and lengths is None:
        lengths = torch.full((batch,), keys.shape[1], device=q.device)
    rule: Rule = rule_of(causal, window_size, softcap, alibi_slopes)
    rule = rule._replace(lengths=lengths, first=cache_leftpad)
    out, lse = attend(q, keys, values, rule, scale=scale, with_lse=return_softmax_lse)
    return (out, lse) if return_softmax_lse else out


def _lengths(given: int | Tensor | None, batch: int, device: torch.device) -> Tensor | None:
    if given is None:
        return None
    if isinstance(given, int):
        return torch.full((batch,), given, dtype=torch.int64, device=device)
    return given.to(torch.int64)


def _rotated(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    offsets: Tensor,
    interleaved: bool,
    *,
    in_order: bool,
) -> tuple[Tensor, Tensor]:
    """Queries and new keys by their positions; without an order all queries stand at the first."""
    k = apply_rotary_emb(k, cos, sin, interleaved, seqlen_offsets=offsets)
    if in_order:
        return apply_rotary_emb(q, cos, sin, interleaved, seqlen_offsets=offsets), k
    batch, s_q, heads, dim = q.shape
    as_one = q.reshape(batch, 1, s_q * heads, dim)
    as_one = apply_rotary_emb(as_one, cos, sin, interleaved, seqlen_offsets=offsets)
    return as_one.reshape(q.shape), k


def _cells(
    at: Tensor, entries: Tensor | None, table: Tensor | None, page: int
) -> tuple[Tensor, Tensor]:
    """Where in the cache each new token goes."""
    if table is not None:
        return table.to(torch.int64).gather(1, at // page), at % page
    if entries is None:
        entries = torch.arange(at.shape[0], device=at.device)
    return entries.to(torch.int64)[:, None].expand_as(at), at


def _read(
    k_cache: Tensor, v_cache: Tensor, entries: Tensor | None, table: Tensor | None, batch: int
) -> tuple[Tensor, Tensor]:
    if table is not None:
        at = table.to(torch.int64)
        return k_cache[at].flatten(1, 2), v_cache[at].flatten(1, 2)
    if entries is not None:
        at = entries.to(torch.int64)
        return k_cache[at], v_cache[at]
    return k_cache[:batch], v_cache[:batch]

"""Attention, once for all substitutes: masks as rules on positions, computed by torch's operators.

`scaled_dot_product_attention` computes what is a mask alone, without the mask where `is_causal`
says the same. What changes the scores (softcap, ALiBi) or is asked for beside the output (the
logarithm of the sum of exponentials) is written out in float32, as the kernels accumulate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import dropout, scaled_dot_product_attention

__all__ = ["Ranges", "Rule", "attend", "attend_each"]


class Rule(NamedTuple):
    """Which keys a query sees, and what is done to their scores.

    Query i of S_q stands at position i + shift, where shift is S_k - S_q: the last query and the
    last key are at the same place. With `top_left` the shift is 0: the first ones are. It sees the
    keys from `left` before its position to `right` behind it.

    Attributes:
        left: Keys seen before the query's own position; None for all.
        right: Keys seen behind it; None for all, 0 for causal attention.
        softcap: Scores become softcap * tanh(score / softcap); 0 for none.
        slopes: (heads,) or (batch, heads): the score loses slope * distance; None for none.
        lengths: (batch,): how many keys there are; None where all of them are.
        queries: (batch,): how many queries there are; None where all of them are.
        first: (batch,): the first key that there is; None for 0.
        bias: Added to the scores, (batch, heads, S_q, S_k) or expandable to it; None for none.
        top_left: Count positions from the first query and key.
    """

    left: int | None = None
    right: int | None = None
    softcap: float = 0.0
    slopes: Tensor | None = None
    lengths: Tensor | None = None
    queries: Tensor | None = None
    first: Tensor | None = None
    bias: Tensor | None = None
    top_left: bool = False


Ranges = Sequence[tuple[int, int, int, int]]
"""Begin and end of the queries, begin and end of the keys, of each sequence."""


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rule: Rule,
    *,
    scale: float,
    dropout_p: float = 0.0,
    with_lse: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Attention over heads; keys and values may have fewer, each for a group of queries' heads.

    Args:
        q: (batch, S_q, heads, dim).
        k: (batch, S_k, heads_k, dim).
        v: (batch, S_k, heads_k, dim_v).
        rule: Which keys a query sees.
        scale: What scores are multiplied by.
        dropout_p: Share of the weights that is dropped.
        with_lse: Give the logarithm of each query's sum of exponentials, too.

    Returns:
        (batch, S_q, heads, dim_v), zero for a query that sees nothing, and the logarithms
        (batch, heads, S_q) in float32, infinite there, or None.
    """
    heads = q.shape[2]
    rule = _simplified(rule, q.shape[1], k.shape[1])
    if not k.shape[1]:
        # Sums over nothing are zero, and go on to have a gradient, which is zero as well.
        q, k, v = (x.transpose(1, 2) for x in (q, _spread(k, heads), _spread(v, heads)))
        nothing = (q @ k.transpose(-2, -1) @ v).transpose(1, 2)
        return nothing, q.new_full(q.shape[:3], torch.inf, dtype=torch.float32)
    if with_lse or rule.softcap or rule.slopes is not None:
        q, k, v = (x.transpose(1, 2) for x in (q, _spread(k, heads), _spread(v, heads)))
        out, lse = _written_out(q, k, v, rule, scale, dropout_p)
        return out.transpose(1, 2), lse
    group = heads // k.shape[2]
    if group > 1 and q.shape[1] == 1 and rule.bias is None:
        # One query: its heads of a group become queries, and no key is copied.
        return _grouped(q, k, v, rule, scale, dropout_p), None
    q, k, v = (x.transpose(1, 2) for x in (q, _spread(k, heads), _spread(v, heads)))
    return _fused(q, k, v, rule, scale, dropout_p).transpose(1, 2), None


def attend_each(
    q: Tensor, k: Tensor, v: Tensor, ranges: Ranges, rule: Rule, **how: Any
) -> tuple[Tensor, Tensor | None]:
    """Attention of sequences that stand one behind the other, each for itself.

    Args:
        q: (total_q, heads, dim).
        k: (total_k, heads_k, dim).
        v: (total_k, heads_k, dim_v).
        ranges: Where each sequence is, in order of the queries.
        rule: For each of them.
        **how: As for `attend`.

    Returns:
        (total_q, heads, dim_v), zero for a query that is in no sequence, and the logarithms
        (heads, total_q), infinite there, or None.
    """
    whole = _as_batch(q, k, ranges)
    if whole is not None:
        q, k, v = (x.unflatten(0, (whole, -1)) for x in (q, k, v))
        out, lse = attend(q, k, v, rule, **how)
        return out.flatten(0, 1), None if lse is None else lse.transpose(0, 1).flatten(1)
    outs, sums = [], []
    for index, (a, b, c, d) in enumerate(ranges):
        own = rule
        if rule.slopes is not None and rule.slopes.dim() == 2:
            own = rule._replace(slopes=rule.slopes[index])
        out, lse = attend(q[None, a:b], k[None, c:d], v[None, c:d], own, **how)
        outs.append(out[0])
        if lse is not None:
            sums.append(lse[0])
    rest = q.shape[0] - ranges[-1][1]
    outs.append(q.new_zeros(rest, q.shape[1], v.shape[2]))
    sums.append(q.new_full((q.shape[1], rest), torch.inf, dtype=torch.float32))
    return torch.cat(outs), torch.cat(sums, 1) if how.get("with_lse") else None


def _as_batch(q: Tensor, k: Tensor, ranges: Ranges) -> int | None:
    """How many sequences there are, where all are of one length and nothing is between them."""
    s_q, s_k = ranges[0][1], ranges[0][3]
    count = len(ranges)
    at_once = [(n * s_q, (n + 1) * s_q, n * s_k, (n + 1) * s_k) for n in range(count)]
    all_of_it = count * s_q == q.shape[0] and count * s_k == k.shape[0]
    return count if s_q and s_k and all_of_it and list(ranges) == at_once else None


def _simplified(rule: Rule, s_q: int, s_k: int) -> Rule:
    """Without windows that reach past the ends."""
    if rule.lengths is not None or rule.queries is not None:
        return rule
    most = (s_q, s_k) if rule.top_left else (s_k, s_q)
    left = None if rule.left is not None and rule.left >= most[0] - 1 else rule.left
    right = None if rule.right is not None and rule.right >= most[1] - 1 else rule.right
    return rule._replace(left=left, right=right)


def _spread(x: Tensor, heads: int) -> Tensor:
    """Repeat each head for its group."""
    batch, length, own, dim = x.shape
    if own == heads:
        return x
    spread = x[:, :, :, None].expand(batch, length, own, heads // own, dim)
    return spread.reshape(batch, length, heads, dim)


def _grouped(q: Tensor, k: Tensor, v: Tensor, rule: Rule, scale: float, dropout_p: float) -> Tensor:
    batch, _, heads, _ = q.shape
    own = k.shape[2]
    mask, blind = _mask(rule, 1, k.shape[1], q.device)
    q = q.reshape(batch, own, heads // own, q.shape[3])
    out = scaled_dot_product_attention(
        q, k.transpose(1, 2), v.transpose(1, 2), mask, dropout_p, scale=scale
    )
    out = _blanked(out, blind)
    return out.reshape(batch, 1, heads, v.shape[3])


def _fused(q: Tensor, k: Tensor, v: Tensor, rule: Rule, scale: float, dropout_p: float) -> Tensor:
    s_q, s_k = q.shape[2], k.shape[2]
    others = (rule.left, rule.lengths, rule.queries, rule.first, rule.bias)
    corner = rule.top_left or s_q == s_k
    if corner and rule.right == 0 and all(other is None for other in others):
        return scaled_dot_product_attention(q, k, v, None, dropout_p, is_causal=True, scale=scale)
    mask, blind = _mask(rule, s_q, s_k, q.device)
    if rule.bias is not None:
        bias = rule.bias.to(q.dtype)
        mask = bias if mask is None else bias.masked_fill(~mask, -torch.inf)
    out = scaled_dot_product_attention(q, k, v, mask, dropout_p, scale=scale)
    return _blanked(out, blind)


def _written_out(
    q: Tensor, k: Tensor, v: Tensor, rule: Rule, scale: float, dropout_p: float
) -> tuple[Tensor, Tensor]:
    scores = (q.float() * scale) @ k.float().transpose(-2, -1)
    if rule.softcap:
        scores = rule.softcap * torch.tanh(scores / rule.softcap)
    s_q, s_k = q.shape[2], k.shape[2]
    if rule.slopes is not None:
        slopes = rule.slopes.float()[..., None, None]  # (batch,) heads, 1, 1
        distance = _distance(rule, s_q, s_k, q.device).abs().float()
        scores = scores - slopes * distance
    if rule.bias is not None:
        scores = scores + rule.bias.float()
    mask, blind = _mask(rule, s_q, s_k, q.device)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    lse = torch.logsumexp(scores.detach(), -1)
    weights = torch.softmax(scores, -1)
    if dropout_p:
        weights = dropout(weights, dropout_p)
    out = _blanked((weights @ v.float()).to(v.dtype), blind)
    if blind is not None:
        lse = lse.masked_fill(blind[..., 0], torch.inf)
    return out, lse


def _blanked(out: Tensor, blind: Tensor | None) -> Tensor:
    return out if blind is None else out.masked_fill(blind, 0.0)


def _distance(rule: Rule, s_q: int, s_k: int, device: torch.device) -> Tensor:
    """How far behind its query each key is: (S_q, S_k), or (batch, 1, S_q, S_k)."""
    query = torch.arange(s_q, device=device)[:, None]
    key = torch.arange(s_k, device=device)[None, :]
    if rule.lengths is None and rule.queries is None:
        return key - query - (0 if rule.top_left else s_k - s_q)
    shift = (s_k if rule.lengths is None else rule.lengths) - (
        s_q if rule.queries is None else rule.queries
    )
    assert isinstance(shift, Tensor)
    return key - query - shift.view(-1, 1, 1, 1)


def _mask(
    rule: Rule, s_q: int, s_k: int, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """True where a query sees a key, and True for a query that sees none; None where all do.

    A row without a key would be NaN: it sees all of them instead, and its result is blanked.
    """
    left, right = rule.left, rule.right
    everywhere = rule.lengths is None and rule.queries is None
    parts = []
    if left is not None or right is not None:
        distance = _distance(rule, s_q, s_k, device)
        if left is not None:
            parts.append(distance >= -left)
        if right is not None:
            parts.append(distance <= right)
    key = torch.arange(s_k, device=device) if not everywhere or rule.first is not None else None
    if rule.lengths is not None:
        assert key is not None
        parts.append(key < rule.lengths.view(-1, 1, 1, 1))
    if rule.first is not None:
        assert key is not None
        parts.append(key >= rule.first.view(-1, 1, 1, 1))
    if not parts:
        return None, None
    mask = parts[0]
    for part in parts[1:]:
        mask = mask & part
    fits = s_k >= s_q or (rule.top_left and left is None)
    if everywhere and rule.first is None and fits:
        return mask, None
    blind = ~mask.any(-1, keepdim=True)
    if rule.queries is not None:
        blind = (
            blind | (torch.arange(s_q, device=device) >= rule.queries.view(-1, 1))[:, None, :, None]
        )
    return mask | blind, blind

"""Attention written out from its definition: a loop over queries, in float64 on the CPU."""

from __future__ import annotations

import torch


def attention(
    q,
    k,
    v,
    *,
    scale=None,
    causal=False,
    window=(-1, -1),
    softcap=0.0,
    slopes=None,
    sees=None,
    bias=None,
):
    """Of one sequence: q (s_q, heads, dim), k and v (s_k, heads_k, dim); any device and type.

    Returns the result and the logarithms of the sums, in float64 on the CPU.
    """
    q, k, v = (x.cpu().double() for x in (q, k, v))
    (s_q, heads, dim), (s_k, own, _) = q.shape, k.shape
    scale = dim**-0.5 if scale is None else scale
    left, right = window
    rows, sums = [], []
    for h in range(heads):
        group = h // (heads // own)
        for i in range(s_q):
            position = i + s_k - s_q
            seen = [
                j
                for j in range(s_k)
                if (not causal or j <= position)
                and (left < 0 or j >= position - left)
                and (right < 0 or j <= position + right)
                and (sees is None or sees(i, j))
            ]
            if not seen:
                rows.append(0.0 * q[i, h].sum() * torch.ones(v.shape[-1], dtype=torch.float64))
                sums.append(torch.tensor(torch.inf, dtype=torch.float64))
                continue
            scores = scale * (k[seen, group] @ q[i, h])
            if softcap:
                scores = softcap * torch.tanh(scores / softcap)
            if slopes is not None:
                distance = torch.tensor([abs(position - j) for j in seen])
                scores = scores - slopes[h].cpu().double() * distance
            if bias is not None:
                scores = scores + bias[h, i, seen].cpu().double()
            weights = scores.exp() / scores.exp().sum()
            rows.append(weights @ v[seen, group])
            sums.append(scores.exp().sum().log())
    out = torch.stack(rows).view(heads, s_q, -1).transpose(0, 1)
    return out, torch.stack(sums).view(heads, s_q)


def of_batch(q, k, v, *, slopes=None, **how):
    """Of a batch of sequences, each as in `attention`."""
    parts = []
    for n in range(q.shape[0]):
        own = slopes[n] if slopes is not None and slopes.dim() == 2 else slopes
        parts.append(attention(q[n], k[n], v[n], slopes=own, **how))
    outs, sums = zip(*parts, strict=True)
    return torch.stack(outs), torch.stack(sums)


def assert_same(found, expected, dtype=None):
    """Equal but for the rounding of the type that was computed in."""
    dtype = found.dtype if dtype is None else dtype
    tolerance = {torch.bfloat16: 3e-2, torch.float16: 5e-3, torch.float32: 2e-5}[dtype]
    torch.testing.assert_close(
        found.cpu().double(), expected.double(), atol=tolerance, rtol=tolerance
    )

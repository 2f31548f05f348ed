"""`flash_attn.layers.rotary`: rotary position embedding (Su et al. 2021), computed in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._missing import unsupported

__all__ = [
    "RotaryEmbedding",
    "apply_rotary_emb",
    "apply_rotary_emb_func",
    "apply_rotary_emb_kv_",
    "apply_rotary_emb_qkv_",
    "apply_rotary_emb_torch",
    "rotate_half",
]


def rotate_half(x: Tensor, interleaved: bool = False) -> Tensor:
    """Turn each pair of numbers (a, b) into (-b, a).

    Args:
        x: (..., dim).
        interleaved: Pairs are neighbours, rather than a number of each half.

    Returns:
        Of the shape of `x`.
    """
    if interleaved:
        return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


def apply_rotary_emb_torch(
    x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False
) -> Tensor:
    """Rotate the first numbers of each head by its position.

    Args:
        x: (batch, seqlen, nheads, headdim).
        cos: (seqlen, rotary_dim / 2), or with a batch before it.
        sin: As `cos`.
        interleaved: As for `rotate_half`.

    Returns:
        Of the shape of `x`.
    """
    cos, sin = (_over_heads(t, interleaved).to(x.dtype) for t in (cos, sin))
    turned, rest = x.split((cos.shape[-1], x.shape[-1] - cos.shape[-1]), -1)
    return torch.cat((turned * cos + rotate_half(turned, interleaved) * sin, rest), -1)


def _over_heads(table: Tensor, interleaved: bool) -> Tensor:
    """(..., seqlen, rotary_dim / 2) to (..., seqlen, 1, rotary_dim)."""
    both = table.repeat_interleave(2, -1) if interleaved else torch.cat((table, table), -1)
    return both.unsqueeze(-2)


def apply_rotary_emb(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool = False,
    inplace: bool = False,
    seqlen_offsets: int | Tensor = 0,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
) -> Tensor:
    """Rotate the first rotary_dim numbers of each head by its position.

    Args:
        x: (batch, seqlen, nheads, headdim), or (total, nheads, headdim) with `cu_seqlens`.
        cos: (seqlen_rotary, rotary_dim / 2).
        sin: As `cos`.
        interleaved: Pairs are neighbours, rather than a number of each half.
        inplace: Write into `x`.
        seqlen_offsets: Position of each sequence's first token: one, or (batch,).
        cu_seqlens: (batch + 1,): where each sequence begins, and the end.
        max_seqlen: Length of the longest sequence.

    Returns:
        Of the shape of `x`; `x` itself with `inplace`.
    """
    cos, sin = (_at(t, x, seqlen_offsets, cu_seqlens) for t in (cos, sin))
    rotated = apply_rotary_emb_torch(x.float(), cos.float(), sin.float(), interleaved).to(x.dtype)
    return x.copy_(rotated) if inplace else rotated


apply_rotary_emb_func = apply_rotary_emb


def _at(table: Tensor, x: Tensor, offsets: int | Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """The rows of a table for the tokens of x."""
    if cu_seqlens is not None:
        token = torch.arange(x.shape[0], device=x.device)
        sequence = torch.bucketize(token, cu_seqlens[1:].to(x.device), right=True)
        sequence = sequence.clamp(max=cu_seqlens.shape[0] - 2)
        begins = cu_seqlens.to(x.device)[sequence]
        own = offsets[sequence] if isinstance(offsets, Tensor) else offsets
        return table[token - begins + own]
    length = x.shape[1]
    if isinstance(offsets, Tensor):
        return table[offsets[:, None].to(torch.int64) + torch.arange(length, device=x.device)]
    return table[offsets : offsets + length]


def apply_rotary_emb_qkv_(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    cos_k: Tensor | None = None,
    sin_k: Tensor | None = None,
    interleaved: bool = False,
    seqlen_offsets: int | Tensor = 0,
    num_heads_q: int | None = None,
) -> Tensor:
    """Rotate queries and keys of a packed tensor, in place.

    Args:
        qkv: (batch, seqlen, 3, nheads, headdim), or (batch, seqlen, nheads_q + 2 * nheads_k,
            headdim) with `num_heads_q`.
        cos: (seqlen_rotary, rotary_dim / 2).
        sin: As `cos`.
        cos_k: The same for the keys, where it is another.
        sin_k: Likewise.
        interleaved: As for `apply_rotary_emb`.
        seqlen_offsets: As for `apply_rotary_emb`.
        num_heads_q: Heads of queries, where those of keys are fewer.

    Returns:
        `qkv`.
    """
    if num_heads_q is None:
        q, k = qkv[:, :, 0], qkv[:, :, 1]
    else:
        own = (qkv.shape[2] - num_heads_q) // 2
        q, k = qkv[:, :, :num_heads_q], qkv[:, :, num_heads_q : num_heads_q + own]
    cos_k, sin_k = cos if cos_k is None else cos_k, sin if sin_k is None else sin_k
    apply_rotary_emb(q, cos, sin, interleaved, inplace=True, seqlen_offsets=seqlen_offsets)
    apply_rotary_emb(k, cos_k, sin_k, interleaved, inplace=True, seqlen_offsets=seqlen_offsets)
    return qkv


def apply_rotary_emb_kv_(
    kv: Tensor,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool = False,
    seqlen_offsets: int | Tensor = 0,
) -> Tensor:
    """Rotate the keys of a packed tensor, in place.

    Args:
        kv: (batch, seqlen, 2, nheads, headdim).
        cos: (seqlen_rotary, rotary_dim / 2).
        sin: As `cos`.
        interleaved: As for `apply_rotary_emb`.
        seqlen_offsets: As for `apply_rotary_emb`.

    Returns:
        `kv`.
    """
    apply_rotary_emb(
        kv[:, :, 0], cos, sin, interleaved, inplace=True, seqlen_offsets=seqlen_offsets
    )
    return kv


class RotaryEmbedding(nn.Module):
    """Rotates queries and keys, by tables that grow with the longest sequence seen.

    Args:
        dim: How many numbers of each head are rotated.
        base: The frequencies are base ** (-2 i / dim).
        interleaved: Pairs are neighbours, rather than a number of each half.
        scale_base: Raises unless None.
        pos_idx_in_fp32: No effect: positions are always counted in float32.
        device: Where the frequencies are.
    """

    def __init__(
        self,
        dim: int,
        base: float = 10000.0,
        interleaved: bool = False,
        scale_base: float | None = None,
        pos_idx_in_fp32: bool = True,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if scale_base is not None:
            raise unsupported("flash_attn.layers.rotary.RotaryEmbedding(scale_base=...)")
        self.dim = dim
        self.base = float(base)
        self.interleaved = interleaved
        self.scale_base = scale_base
        powers = torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim
        self.inv_freq: Tensor
        self.register_buffer("inv_freq", 1.0 / self.base**powers, persistent=False)

    def _tables(self, x: Tensor, length: int) -> tuple[Tensor, Tensor]:
        position = torch.arange(length, device=x.device, dtype=torch.float32)
        angles = torch.outer(position, self.inv_freq.to(x.device, torch.float32))
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)

    def forward(
        self,
        qkv: Tensor,
        kv: Tensor | None = None,
        seqlen_offset: int | Tensor = 0,
        max_seqlen: int | None = None,
        num_heads_q: int | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Rotate in place.

        Args:
            qkv: (batch, seqlen, 3, nheads, headdim); the queries alone where `kv` is given.
            kv: (batch, seqlen, 2, nheads, headdim).
            seqlen_offset: Position of each sequence's first token: one, or (batch,).
            max_seqlen: Length of the tables, needed where positions are a tensor.
            num_heads_q: As for `apply_rotary_emb_qkv_`.

        Returns:
            `qkv`, or `qkv` and `kv`.
        """
        length = qkv.shape[1]
        if isinstance(seqlen_offset, int):
            length += seqlen_offset
        elif max_seqlen is not None:
            length = max_seqlen
        else:
            length += int(seqlen_offset.max())
        cos, sin = self._tables(qkv, length)
        how: dict[str, Any] = {"interleaved": self.interleaved, "seqlen_offsets": seqlen_offset}
        if kv is None:
            return apply_rotary_emb_qkv_(qkv, cos, sin, num_heads_q=num_heads_q, **how)
        q = apply_rotary_emb(qkv, cos, sin, inplace=True, **how)
        return q, apply_rotary_emb_kv_(kv, cos, sin, **how)

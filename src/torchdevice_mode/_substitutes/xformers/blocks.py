"""`xformers.ops.fmha.attn_bias`: masks of several sequences that stand one behind the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .._attention import Ranges, Rule
from .masks import AttentionBias, materialized

__all__ = [
    "BlockDiagonalCausalFromBottomRightMask",
    "BlockDiagonalCausalLocalAttentionFromBottomRightMask",
    "BlockDiagonalCausalLocalAttentionMask",
    "BlockDiagonalCausalMask",
    "BlockDiagonalCausalWithOffsetPaddedKeysMask",
    "BlockDiagonalMask",
    "BlockDiagonalPaddedKeysMask",
]


class SeqLenInfo:
    """Where sequences begin.

    Attributes:
        seqstart_py: Begin of each, and the end.
        seqstart: The same as a tensor in int32.
        max_seqlen: Length of the longest.
        min_seqlen: Length of the shortest.
    """

    def __init__(self, lengths: Iterable[int], device: torch.device | None = None) -> None:
        self.seqstart_py = [0]
        for length in lengths:
            self.seqstart_py.append(self.seqstart_py[-1] + int(length))
        own = [b - a for a, b in pairwise(self.seqstart_py)]
        self.max_seqlen, self.min_seqlen = max(own, default=-1), min(own, default=-1)
        self.seqstart = torch.tensor(self.seqstart_py, dtype=torch.int32, device=device or "cpu")

    @classmethod
    def from_seqlens(
        cls, seqlens: Iterable[int], *, device: torch.device | None = None
    ) -> SeqLenInfo:
        """The same as the class."""
        return cls(seqlens, device)

    def intervals(self) -> Iterable[tuple[int, int]]:
        """Begin and end of each."""
        return pairwise(self.seqstart_py)

    def to(self, device: torch.device) -> SeqLenInfo:
        """The same; its tensor is on a device."""
        self.seqstart = self.seqstart.to(device)
        return self


class BlockDiagonalMask(AttentionBias):
    """Each sequence sees itself alone.

    Args:
        q_seqinfo: Where the sequences of queries begin.
        k_seqinfo: Where those of keys do.
        _batch_sizes: How many sequences each tensor had that was put together.
    """

    rule = Rule()

    def __init__(
        self,
        q_seqinfo: SeqLenInfo,
        k_seqinfo: SeqLenInfo,
        _batch_sizes: Sequence[int] | None = None,
    ) -> None:
        self.q_seqinfo = q_seqinfo
        self.k_seqinfo = k_seqinfo
        self._batch_sizes = _batch_sizes

    @classmethod
    def from_seqlens(
        cls,
        q_seqlen: Sequence[int],
        kv_seqlen: Sequence[int] | None = None,
        *,
        device: torch.device | None = None,
    ) -> Any:
        """A mask for sequences of these lengths.

        Args:
            q_seqlen: Of the queries.
            kv_seqlen: Of the keys; by default those of the queries.
            device: No effect but on the tensors that the mask shows.

        Returns:
            The mask.
        """
        if kv_seqlen is not None and len(kv_seqlen) != len(q_seqlen):
            raise AssertionError("q_seqlen and kv_seqlen name different numbers of sequences")
        q_seqinfo = SeqLenInfo(q_seqlen, device)
        k_seqinfo = q_seqinfo
        if kv_seqlen is not None and list(kv_seqlen) != list(q_seqlen):
            k_seqinfo = SeqLenInfo(kv_seqlen, device)
        return cls(q_seqinfo, k_seqinfo)

    @classmethod
    def from_tensor_list(cls, tensors: Sequence[Tensor]) -> tuple[Any, Tensor]:
        """A mask for the sequences in tensors, and these put together.

        Args:
            tensors: Each (batch, length, ...).

        Returns:
            The mask, and (1, total, ...).
        """
        mask = cls.from_seqlens([t.shape[1] for t in tensors for _ in range(t.shape[0])])
        mask._batch_sizes = [t.shape[0] for t in tensors]
        return mask, _together(tensors)

    @classmethod
    def from_tensor_lists_qk(
        cls, tensors_q: Sequence[Tensor], tensors_k: Sequence[Tensor]
    ) -> tuple[Any, Tensor, Tensor]:
        """As `from_tensor_list`, for queries and keys of their own lengths."""
        return cls.from_tensor_lists_qkv(tensors_q, tensors_k)[:3]

    @classmethod
    def from_tensor_lists_qkv(
        cls,
        tensors_q: Sequence[Tensor],
        tensors_k: Sequence[Tensor],
        tensors_v: Sequence[Tensor] | None = None,
    ) -> tuple[Any, Tensor, Tensor, Tensor | None]:
        """As `from_tensor_list`, for queries, keys and values.

        Args:
            tensors_q: Each (batch, length, ...).
            tensors_k: As many, each of the batch of its queries.
            tensors_v: Likewise, or None.

        Returns:
            The mask, and the three put together.
        """
        mask = cls.from_seqlens(
            [t.shape[1] for t in tensors_q for _ in range(t.shape[0])],
            [t.shape[1] for t in tensors_k for _ in range(t.shape[0])],
        )
        mask._batch_sizes = [t.shape[0] for t in tensors_q]
        values = None if tensors_v is None else _together(tensors_v)
        return mask, _together(tensors_q), _together(tensors_k), values

    def split_queries(self, tensor: Tensor) -> Sequence[Tensor]:
        """Take apart what was put together: (1, total, ...) to each (batch, length, ...)."""
        return self._split(tensor, self.q_seqinfo)

    def split_kv(self, tensor: Tensor) -> Sequence[Tensor]:
        """As `split_queries`, for keys and values."""
        return self._split(tensor, self.k_seqinfo)

    def split(self, tensor: Tensor) -> Sequence[Tensor]:
        """As `split_queries`, where queries and keys have the same lengths."""
        if self.q_seqinfo is not self.k_seqinfo:
            raise AssertionError("queries and keys differ in lengths: call split_queries")
        return self._split(tensor, self.q_seqinfo)

    def _split(self, tensor: Tensor, info: SeqLenInfo) -> Sequence[Tensor]:
        sizes = self._batch_sizes
        if sizes is None:
            sizes = [1] * (len(info.seqstart_py) - 1)
        parts, sequence = [], 0
        for size in sizes:
            begin, end = info.seqstart_py[sequence], info.seqstart_py[sequence + size]
            parts.append(tensor[0, begin:end].unflatten(0, (size, -1)))
            sequence += size
        return parts

    def ranges(self) -> Ranges:
        """Where each sequence is."""
        both = zip(self.q_seqinfo.intervals(), self.k_seqinfo.intervals(), strict=True)
        return [(*queries, *keys) for queries, keys in both]

    def materialize(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> Tensor:
        """The mask as numbers: 0 where a query sees a key, and minus infinity elsewhere."""
        whole = torch.full(shape[-2:], -torch.inf, dtype=dtype, device=device)
        for a, b, c, d in self.ranges():
            whole[a:b, c:d] = materialized(self.rule, (b - a, d - c), dtype, device)
        return whole.expand(shape)

    def to(self, device: torch.device) -> Any:
        """The same; the tensors that it shows are on a device."""
        self.q_seqinfo.to(device)
        self.k_seqinfo.to(device)
        return self

    def _as(self, kind: type[BlockDiagonalMask], *more: int) -> Any:
        mask: Any = kind(self.q_seqinfo, self.k_seqinfo, self._batch_sizes, *more)
        return mask

    def make_causal(self) -> Any:
        """The same sequences, each causal from its first query and key."""
        return self._as(BlockDiagonalCausalMask)

    def make_causal_from_bottomright(self) -> Any:
        """The same sequences, each causal from its last query and key."""
        return self._as(BlockDiagonalCausalFromBottomRightMask)

    def make_local_attention(self, window_size: int) -> Any:
        """The same sequences, each causal in a window, from its first query and key."""
        return self._as(BlockDiagonalCausalLocalAttentionMask, window_size)

    def make_local_attention_from_bottomright(self, window_size: int) -> Any:
        """The same sequences, each causal in a window, from its last query and key."""
        return self._as(BlockDiagonalCausalLocalAttentionFromBottomRightMask, window_size)


def _together(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.reshape(1, -1, *t.shape[2:]) for t in tensors], 1)


class BlockDiagonalCausalMask(BlockDiagonalMask):
    """Each sequence sees itself alone, and is causal from its first query and key."""

    rule = Rule(right=0, top_left=True)


class BlockDiagonalCausalFromBottomRightMask(BlockDiagonalMask):
    """Each sequence sees itself alone, and is causal from its last query and key."""

    rule = Rule(right=0)

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        for index, (a, b, c, d) in enumerate(self.ranges()):
            if b - a > d - c:
                raise ValueError(
                    f"Block #{index} has num_keys={d - c} and num_queries={b - a}."
                    " Expected `num_queries <= num_keys`"
                )


class _Local(BlockDiagonalMask):
    def __init__(
        self,
        q_seqinfo: SeqLenInfo,
        k_seqinfo: SeqLenInfo,
        _batch_sizes: Sequence[int] | None = None,
        _window_size: int = 0,
    ) -> None:
        super().__init__(q_seqinfo, k_seqinfo, _batch_sizes)
        if _window_size <= 0:
            raise ValueError(f"Expected `window_size > 0`, but window_size={_window_size}")
        self._window_size = _window_size
        self.rule = self.rule._replace(left=_window_size - 1)


class BlockDiagonalCausalLocalAttentionMask(_Local):
    """As `BlockDiagonalCausalMask`; each query sees so many keys, its own included."""

    rule = Rule(right=0, top_left=True)


class BlockDiagonalCausalLocalAttentionFromBottomRightMask(_Local):
    """As `BlockDiagonalCausalFromBottomRightMask`; each query sees so many keys."""

    rule = Rule(right=0)


class BlockDiagonalPaddedKeysMask(AttentionBias):
    """Each sequence of queries sees its own keys, which stand in places of one size.

    Args:
        q_seqinfo: Where the sequences of queries begin.
        k_seqlen: How many keys there are in each place.
        padding: Size of a place.
    """

    rule = Rule()

    def __init__(self, q_seqinfo: SeqLenInfo, k_seqlen: Sequence[int], padding: int) -> None:
        self.q_seqinfo = q_seqinfo
        self.k_seqlen = list(k_seqlen)
        self.padding = padding

    @classmethod
    def from_seqlens(
        cls,
        q_seqlen: Sequence[int],
        kv_padding: int,
        kv_seqlen: Sequence[int],
        causal_diagonal: Any = None,
        *,
        device: torch.device | None = None,
    ) -> Any:
        """A mask for sequences of these lengths.

        Args:
            q_seqlen: Of the queries.
            kv_padding: Size of a place for keys.
            kv_seqlen: How many keys there are in each.
            causal_diagonal: No effect, as in xFormers.
            device: No effect but on the tensors that the mask shows.

        Returns:
            The mask.
        """
        if len(kv_seqlen) != len(q_seqlen):
            raise AssertionError("q_seqlen and kv_seqlen name different numbers of sequences")
        return cls(SeqLenInfo(q_seqlen, device), kv_seqlen, kv_padding)

    def ranges(self) -> Ranges:
        """Where each sequence is."""
        both = zip(self.q_seqinfo.intervals(), self.k_seqlen, strict=True)
        places = enumerate(both)
        return [
            (a, b, n * self.padding, n * self.padding + length) for n, ((a, b), length) in places
        ]

    materialize = BlockDiagonalMask.materialize


class BlockDiagonalCausalWithOffsetPaddedKeysMask(BlockDiagonalPaddedKeysMask):
    """As `BlockDiagonalPaddedKeysMask`, causal from the last query and the last key there is."""

    rule = Rule(right=0)

"""`flash_attn.bert_padding`: takes padding out of a batch, and puts it back."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["index_first_axis", "index_put_first_axis", "pad_input", "unpad_input"]


def index_first_axis(input: Tensor, indices: Tensor) -> Tensor:
    """Rows of a tensor.

    Args:
        input: (rows, ...).
        indices: (chosen,).

    Returns:
        (chosen, ...).
    """
    return input.index_select(0, indices)


def index_put_first_axis(values: Tensor, indices: Tensor, first_axis_dim: int) -> Tensor:
    """A tensor of zeros with some rows filled.

    Args:
        values: (chosen, ...).
        indices: (chosen,).
        first_axis_dim: How many rows.

    Returns:
        (first_axis_dim, ...).
    """
    empty = values.new_zeros(first_axis_dim, *values.shape[1:])
    return empty.index_copy(0, indices, values)


def unpad_input(
    hidden_states: Tensor, attention_mask: Tensor, unused_mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, int, Tensor]:
    """Take padding out of a batch.

    Args:
        hidden_states: (batch, seqlen, ...).
        attention_mask: (batch, seqlen), 1 or True where a token is.
        unused_mask: Likewise for tokens that are kept but not used.

    Returns:
        The tokens (total, ...); their places among batch * seqlen; where each sequence begins,
        and the end, (batch + 1,) in int32; length of the longest; tokens of each in
        `attention_mask` alone, (batch,) in int32.
    """
    kept = attention_mask if unused_mask is None else attention_mask + unused_mask
    lengths = kept.sum(-1, dtype=torch.int32)
    used = attention_mask.sum(-1, dtype=torch.int32)
    indices = torch.nonzero(kept.flatten(), as_tuple=False).flatten()
    longest = int(lengths.max().item())
    begins = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    tokens = index_first_axis(hidden_states.flatten(0, 1), indices)
    return tokens, indices, begins, longest, used


def pad_input(hidden_states: Tensor, indices: Tensor, batch: int, seqlen: int) -> Tensor:
    """Put padding back into a batch, as zeros.

    Args:
        hidden_states: (total, ...).
        indices: What `unpad_input` gave.
        batch: Entries of the batch.
        seqlen: Length of the longest.

    Returns:
        (batch, seqlen, ...).
    """
    padded = index_put_first_axis(hidden_states, indices, batch * seqlen)
    return padded.unflatten(0, (batch, seqlen))

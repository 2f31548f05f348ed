"""`xformers.ops`: SwiGLU, and operations on rows of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["SwiGLU", "index_select_cat", "scaled_index_add", "swiglu", "unbind"]


def unbind(x: Tensor, dim: int) -> tuple[Tensor, ...]:
    """`torch.unbind`.

    Args:
        x: Any tensor.
        dim: Along which.

    Returns:
        A tensor for each place.
    """
    return torch.unbind(x, dim)


def swiglu(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    w3: Tensor,
    b3: Tensor | None,
    *,
    op: Any = None,
) -> Tensor:
    """linear3(silu(linear1(x)) * linear2(x)).

    Args:
        x: (..., in).
        w1: (hidden, in).
        b1: (hidden,), or None.
        w2: (hidden, in).
        b2: (hidden,), or None.
        w3: (out, hidden).
        b3: (out,), or None.
        op: No effect: which of xFormers' kernels computes.

    Returns:
        (..., out).
    """
    gate = functional.silu(functional.linear(x, w1, b1))
    return functional.linear(gate * functional.linear(x, w2, b2), w3, b3)


class SwiGLU(nn.Module):
    """A feed-forward layer with a gate.

    Args:
        in_features: Size of the input.
        hidden_features: Size between; by default that of the input.
        out_features: Size of the output; by default that of the input.
        bias: Whether the layers have one.
        _pack_weights: Keep the first two layers' weights in one, `w12`.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        bias: bool = True,
        *,
        _pack_weights: bool = True,
    ) -> None:
        super().__init__()
        out_features = out_features or in_features
        hidden_features = hidden_features or in_features
        self.w12: nn.Linear | None = None
        if _pack_weights:
            self.w12 = nn.Linear(in_features, 2 * hidden_features, bias=bias)
        else:
            self.w1 = nn.Linear(in_features, hidden_features, bias=bias)
            self.w2 = nn.Linear(in_features, hidden_features, bias=bias)
        self.w3 = nn.Linear(hidden_features, out_features, bias=bias)
        self.hidden_features = hidden_features
        self.out_features = out_features
        self.in_features = in_features
        self.op = None

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        if self.w12 is not None:
            first, second = self.w12(x).chunk(2, -1)
        else:
            first, second = self.w1(x), self.w2(x)
        out: Tensor = self.w3(functional.silu(first) * second)
        return out


def index_select_cat(sources: Sequence[Tensor], indices: Sequence[Tensor]) -> Tensor:
    """Rows of several tensors, flattened and put together.

    Args:
        sources: Each (rows, ...).
        indices: Which rows, of each.

    Returns:
        (numbers,).
    """
    chosen = zip(sources, indices, strict=True)
    return torch.cat([source[index.long()].flatten() for source, index in chosen])


def scaled_index_add(
    input: Tensor,
    index: Tensor,
    source: Tensor,
    scaling: Tensor | None = None,
    alpha: float = 1.0,
) -> Tensor:
    """Add alpha * scaling * source to rows of a tensor, in place.

    Args:
        input: (rows, length, dim).
        index: (chosen,), each row at most once.
        source: (chosen, length, dim).
        scaling: (dim,), or None.
        alpha: A factor.

    Returns:
        `input`.
    """
    added = source if scaling is None else source * scaling
    return input.index_add_(0, index.long(), added.to(input.dtype), alpha=alpha)

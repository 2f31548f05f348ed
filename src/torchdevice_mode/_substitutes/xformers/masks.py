"""`xformers.ops.fmha.attn_bias`: masks of one sequence, as objects."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._attention import Rule

__all__ = [
    "AttentionBias",
    "LocalAttentionFromBottomRightMask",
    "LowerTriangularFromBottomRightLocalAttentionMask",
    "LowerTriangularFromBottomRightMask",
    "LowerTriangularMask",
    "LowerTriangularMaskWithTensorBias",
]


def materialized(
    rule: Rule, shape: tuple[int, ...], dtype: torch.dtype, device: str | torch.device
) -> Tensor:
    """0 where a query sees a key, and minus infinity elsewhere."""
    s_q, s_k = shape[-2:]
    query = torch.arange(s_q, device=device)[:, None]
    distance = torch.arange(s_k, device=device) - query - (0 if rule.top_left else s_k - s_q)
    hidden = torch.zeros(s_q, s_k, dtype=torch.bool, device=device)
    if rule.left is not None:
        hidden = hidden | (distance < -rule.left)
    if rule.right is not None:
        hidden = hidden | (distance > rule.right)
    whole = torch.zeros(s_q, s_k, dtype=dtype, device=device).masked_fill(hidden, -torch.inf)
    return whole.expand(shape)


class AttentionBias:
    """A mask, as an object.

    Attributes:
        rule: Which keys a query sees.
    """

    rule: Rule

    def materialize(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> Tensor:
        """The mask as numbers; a class of a program's own says how.

        Args:
            shape: (..., queries, keys).
            dtype: Of the result.
            device: Of the result.

        Returns:
            0 where a query sees a key, and minus infinity elsewhere.
        """
        if not hasattr(self, "rule"):
            raise NotImplementedError
        return materialized(self.rule, shape, dtype, device)

    def to(self, device: torch.device) -> Any:
        """The same: it has no tensors."""
        return self


class LowerTriangularMask(AttentionBias):
    """Causal from the first query and key.

    Args:
        *given: No effect, as in xFormers.
        **named: Likewise.
    """

    rule = Rule(right=0, top_left=True)

    def __init__(self, *given: Any, **named: Any) -> None:
        pass

    def add_bias(self, bias: Tensor) -> LowerTriangularMaskWithTensorBias:
        """The same, with numbers added to the scores."""
        return LowerTriangularMaskWithTensorBias(bias)


class LowerTriangularMaskWithTensorBias(LowerTriangularMask):
    """Causal from the first query and key, with numbers added to the scores.

    Args:
        bias: (batch, heads, queries, keys).
    """

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self._bias = bias
        self.rule = self.rule._replace(bias=bias)

    def materialize(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> Tensor:
        """The mask as numbers, the bias added."""
        return super().materialize(shape, dtype, device) + self._bias.to(device, dtype)


class LowerTriangularFromBottomRightMask(AttentionBias):
    """Causal from the last query and key."""

    rule = Rule(right=0)

    def make_local_attention(
        self, window_size: int
    ) -> LowerTriangularFromBottomRightLocalAttentionMask:
        """The same in a window."""
        return LowerTriangularFromBottomRightLocalAttentionMask(window_size)


class LowerTriangularFromBottomRightLocalAttentionMask(LowerTriangularFromBottomRightMask):
    """Causal from the last query and key; each query sees so many keys, its own included.

    Args:
        _window_size: How many.
    """

    def __init__(self, _window_size: int) -> None:
        if _window_size <= 0:
            raise ValueError(f"Expected `window_size > 0`, but window_size={_window_size}")
        self._window_size = _window_size
        self.rule = Rule(left=_window_size - 1, right=0)


class LocalAttentionFromBottomRightMask(AttentionBias):
    """A window on both sides, from the last query and key.

    Args:
        window_left: How many keys a query sees before its own.
        window_right: How many behind.
    """

    def __init__(self, window_left: int, window_right: int) -> None:
        for side, size in (("left", window_left), ("right", window_right)):
            if size < 0:
                raise ValueError(f"Invalid window value: window_{side}={size}")
        self.window_left, self.window_right = window_left, window_right
        self.rule = Rule(left=window_left, right=window_right)

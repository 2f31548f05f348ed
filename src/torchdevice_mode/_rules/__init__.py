"""The rules: every row, and the dictionary that the function mode looks functions up in."""

from __future__ import annotations

from .._registry import Rule, build
from . import devices, factories, host, moves, operands, sharing

__all__ = ["ROWS", "RULES"]

ROWS: tuple[Rule, ...] = (
    *devices.ROWS,
    *factories.ROWS,
    *moves.ROWS,
    *host.ROWS,
    *sharing.ROWS,
    *operands.ROWS,
)
"""All rows, in the order of the files."""

RULES = build(ROWS)
"""Handlers by torch function. A plain dictionary, since the hot path reads it; not written to."""

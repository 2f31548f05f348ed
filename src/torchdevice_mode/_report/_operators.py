"""The operators of a profile, by what they are: computed, fallen back to the CPU, or copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .._words import time

if TYPE_CHECKING:
    from ._model import OperatorTime, Report

__all__ = ["Group", "groups"]

_TITLES = {
    "operator": "Operators",
    "fallback": "Fallbacks to the CPU, copies included",
    "copy": "Copies between devices",
}


class Group(NamedTuple):
    """Operators of one kind.

    Attributes:
        title: What they are, and what they took together.
        operators: The slowest first.
        shares: Of the time of all operators, for each.
    """

    title: str
    operators: Sequence[OperatorTime]
    shares: Sequence[float]


def groups(report: Report) -> Iterator[Group]:
    """The operators that were timed; none where none were."""
    operators = report.operators
    whole = sum(operator.seconds for operator in operators) or 1.0
    for kind, title in _TITLES.items():
        some = [operator for operator in operators if operator.kind == kind]
        if some:
            seconds = sum(operator.seconds for operator in some)
            share = f"{100 * seconds / whole:.1f} % of the time measured"
            shares = [operator.seconds / whole for operator in some]
            yield Group(f"{title}: {time(seconds)}, {share}", some, shares)

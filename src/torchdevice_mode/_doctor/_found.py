"""Collects the findings of one file, each as serious as its place allows."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .._machine import Machine
from .._policy import decide
from .._settings import Settings
from .._suggestions import for_name
from ._findings import Finding, Severity
from ._flow import Where
from ._rules import BY_ID

__all__ = ["Answer", "Found", "Lookup", "machine_for"]

_IGNORE = re.compile(r"#\s*torchdevice:\s*ignore(?:\[([\w\s,-]*)\])?")


class Answer(NamedTuple):
    """How a name of torch is answered.

    Attributes:
        name: The name that has the answer; what was asked for, or what that is below.
        state: One of `STATES`, or "name" where it is not known.
        reason: Why, in a few words.
    """

    name: str
    state: str
    reason: str


Lookup = Callable[[str], "Answer | None"]
"""Gives the answer for a dotted name of torch; None for what is no name of a device's module."""


def machine_for(target: str) -> Machine:
    """A machine whose target is the one given: "mps", "cuda" or "cpu"."""
    return Machine(accelerators=() if target == "cpu" else ((target, 1),))


class Found:
    """What was found in one file.

    Args:
        path: The file, as findings name it.
        lines: Its lines.
        lookup: Gives the state of a name of torch.
        target: The type of device that the program is to run on.
    """

    def __init__(self, path: str, lines: Sequence[str], lookup: Lookup, target: str) -> None:
        self.path = path
        self.lines = lines
        self.lookup = lookup
        self.target = target
        self.findings: list[Finding] = []
        self._machine = machine_for(target)
        self._told: set[tuple[int, int, str, str]] = set()

    def decision(self, request: object) -> tuple[str, str]:
        """The device that a request gets, and why, as the policy says."""
        decided = decide(request, self._machine, Settings(), False)
        given = str(decided.device) if decided.device is not None else str(request)
        return given, decided.reason

    def add(
        self,
        node: ast.expr | ast.stmt,
        rule: str,
        message: str,
        where: Where,
        *,
        about: str = "",
        state: str = "",
        suggestion: str | None = None,
        severity: Severity | None = None,
        caught: frozenset[str] = frozenset(),
        lazy: bool = False,
    ) -> None:
        """Add a finding, unless a comment on its line says not to.

        Args:
            node: Where it is.
            rule: Its rule.
            message: What is there, in one sentence without a full stop.
            where: What is known of the place.
            about: The name that it is about; a row of suggestions for it is added.
            state: How a name of torch is answered.
            suggestion: What to do; by default what the rows of suggestions say.
            severity: Another one than the rule's.
            caught: Exceptions that would catch the failure.
            lazy: Whether a failure inside of a function is taken for one that may not come.
        """
        row = BY_ID[rule]
        if row.off_cuda and self.target == "cuda":
            return
        key = (node.lineno, node.col_offset, rule, about)
        if key in self._told or self._is_ignored(node, rule):
            return
        self._told.add(key)
        weight = row.severity if severity is None else severity
        may_pass = where.conditional or where.caught & caught or (lazy and where.function)
        if where.dead:
            weight = Severity.NOTE
            message += f"; this is not reached ({where.dead})"
        elif weight is Severity.ERROR and may_pass:
            weight = Severity.WARNING
            message += (
                "; the program catches that" if where.caught & caught else ", if it is reached"
            )
        known = for_name(about) if about else None
        advice = known.advice if suggestion is None and known is not None else suggestion or ""
        self.findings.append(
            Finding(
                self.path,
                node.lineno,
                self._column(node.lineno, node.col_offset),
                node.end_lineno or node.lineno,
                self._column(node.end_lineno or node.lineno, node.end_col_offset or 0),
                rule,
                weight,
                message + ".",
                name=about,
                state=state,
                suggestion=advice,
                instead=known.instead if suggestion is None and known is not None else "",
                function=where.function,
                source=self._line(node.lineno).strip(),
            )
        )

    def add_name(self, node: ast.expr, path: str, where: Where) -> bool:
        """Add a name of a device's module with its state; False if it is none."""
        answer = self.lookup(path)
        if answer is None:
            return False
        refused = frozenset({"NotImplementedError", "RuntimeError", "Exception", "BaseException"})
        if answer.state == "absent":
            refused = frozenset({"AttributeError", "Exception", "BaseException"})
        self.add(
            node,
            "torch-name" if answer.state == "name" else f"torch-{answer.state}",
            f"{answer.name} is {answer.state}: {answer.reason}" if answer.reason else answer.name,
            where,
            about=answer.name,
            state="" if answer.state == "name" else answer.state,
            caught=refused,
        )
        return True

    def _line(self, number: int) -> str:
        return self.lines[number - 1] if 0 < number <= len(self.lines) else ""

    def _column(self, number: int, offset: int) -> int:
        """A column in characters; `ast` counts the bytes of UTF-8."""
        line = self._line(number)
        if not line.isascii():
            line_bytes = line.encode("utf-8", "surrogatepass")
            return len(line_bytes[:offset].decode("utf-8", "replace")) + 1
        return offset + 1

    def _is_ignored(self, node: ast.expr | ast.stmt, rule: str) -> bool:
        for number in {node.lineno, node.end_lineno or node.lineno}:
            line = self._line(number)
            match = _IGNORE.search(line) if "torchdevice" in line else None
            if match is None:
                continue
            named = [name.strip() for name in (match[1] or "").split(",") if name.strip()]
            if not named or rule in named:
                return True
        return False

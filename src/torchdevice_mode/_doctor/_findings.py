"""What the doctor finds: a place in a file, what is there, and what to do about it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Finding", "Severity"]


class Severity(enum.IntEnum):
    """How much a finding matters."""

    NOTE = 0
    """Runs: told so that one knows."""
    WARNING = 1
    """Runs, and something is otherwise than on CUDA; or may fail, if it is reached."""
    ERROR = 2
    """Fails when it is reached, and nothing says that it is not."""

    @property
    def word(self) -> str:
        """The severity as it is printed."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.

    Attributes:
        path: The file.
        line: First line, counted from 1.
        column: First column, counted from 1, in characters.
        end_line: Last line.
        end_column: The column after the last one.
        rule: Id of a row of `RULES`.
        severity: How much it matters here; a rule's own, or less where it may not be reached.
        message: What is there and what becomes of it, in one sentence.
        name: What it is about: a name of torch, a package, a variable.
        state: How a name of torch is answered ("native", "mapped", "emulated", "stubbed",
            "unsupported", "absent"); empty for what is no name of torch.
        suggestion: What to do, in one sentence; empty where there is nothing to do.
        instead: Code to write in its place; empty where there is none.
        function: The function whose call reaches it; empty at the level of the module.
        source: The line of source, stripped.
        cell: The cell of a notebook, counted from 1; 0 elsewhere.
    """

    path: str
    line: int
    column: int
    end_line: int
    end_column: int
    rule: str
    severity: Severity
    message: str
    name: str = ""
    state: str = ""
    suggestion: str = ""
    instead: str = ""
    function: str = ""
    source: str = ""
    cell: int = 0

    @property
    def place(self) -> str:
        """Where it is, as `file:line`, or `file:cell 3:line`."""
        cell = f"cell {self.cell}:" if self.cell else ""
        return f"{self.path}:{cell}{self.line}"

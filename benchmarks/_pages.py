"""Puts the tables into pages: between `<!-- benchmark: NAME -->` and the end of the table there."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["update"]

_TABLE = re.compile(r"(?m)^(<!-- benchmark: (?P<name>\w+) -->\n\n)(?:\|.*\n)*")
_MACHINE = re.compile(r"(?m)^(<!-- benchmark: machine -->\n\n)Measured with .*, on")


def update(page: Path, tables: dict[str, str], machine: str) -> list[str]:
    """Replace the tables of a page by those of this run, and the line that names the machine.

    Args:
        page: The page.
        tables: Markdown by the name of the benchmark.
        machine: What they were measured with.

    Returns:
        The names of the tables that were replaced.
    """
    replaced: list[str] = []

    def put(found: re.Match[str]) -> str:
        if found["name"] not in tables:
            return found[0]
        replaced.append(found["name"])
        # Where there was no table yet, nothing parts it from what follows.
        part = "" if found.string[found.end() :].startswith("\n") else "\n"
        return f"{found[1]}{tables[found['name']]}\n{part}"

    text = _TABLE.sub(put, page.read_text())
    page.write_text(_MACHINE.sub(rf"\g<1>Measured with {machine}, on", text))
    return replaced

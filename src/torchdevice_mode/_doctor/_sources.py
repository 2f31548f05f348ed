"""Reads files: their bytes as text, and the code cells of notebooks as one program."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
import warnings
from pathlib import Path
from typing import NamedTuple

__all__ = ["LARGEST", "Cell", "Notebook", "UnreadableError", "notebook", "read"]

LARGEST = 5_000_000
"""Bytes of a file from which on it is taken for generated and passed over."""

# Cell magics whose cell is Python nevertheless.
_PYTHON_CELLS = re.compile(r"%%(time|timeit|capture|prun|debug)\b")
_MAGIC = re.compile(r"^(\s*)([%!?].*|\S.*[^\s?]\?\??\s*)$")
_ASSIGNED_MAGIC = re.compile(r"^(\s*[\w.,\s\[\]]+=\s*)[%!].*$")


class UnreadableError(Exception):
    """A file cannot be read; the text says why."""


class Cell(NamedTuple):
    """A code cell: its number among all cells, and its first line in the program."""

    number: int
    first_line: int


class Notebook(NamedTuple):
    """The code cells of a notebook as one program.

    Attributes:
        text: The program.
        cells: Its cells.
        broken: Cells that are not Python, each with the line there and why.
    """

    text: str
    cells: list[Cell]
    broken: list[tuple[int, int, str]]

    def place(self, line: int) -> tuple[int, int]:
        """The cell that a line of the program is of, and the line in it."""
        found = next(cell for cell in reversed(self.cells) if cell.first_line <= line)
        return found.number, line - found.first_line + 1


def read(path: Path) -> str:
    """Read a file as Python does: its encoding is UTF-8, or what its first lines say.

    Args:
        path: The file.

    Returns:
        Its text.

    Raises:
        UnreadableError: If that is not possible.
    """
    try:
        if not path.is_file():
            raise UnreadableError("it is not a file")
        size = path.stat().st_size
        if size > LARGEST:
            raise UnreadableError(
                f"it has {size:,} bytes, and more than {LARGEST:,} is taken for data"
            )
        data = path.read_bytes()
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        return data.decode(encoding)
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from None
    except SyntaxError as error:  # an unknown encoding, or its first lines are not UTF-8
        raise UnreadableError(str(error.msg)) from None
    except UnicodeDecodeError as error:
        raise UnreadableError(f"it is not {error.encoding}, at byte {error.start}") from None


def notebook(text: str) -> Notebook:
    """Take the code of a notebook.

    Args:
        text: The file's text.

    Returns:
        The program, without magics and shell commands.

    Raises:
        UnreadableError: If the text is no notebook.
    """
    try:
        document = json.loads(text)
        language = document.get("metadata", {}).get("kernelspec", {}).get("language", "python")
        if "worksheets" in document:  # before version 4
            cells = [cell for sheet in document["worksheets"] for cell in sheet.get("cells", [])]
        else:
            cells = document["cells"]
        codes = [
            (number, "".join(source) if isinstance(source, list) else source)
            for number, cell in enumerate(cells, 1)
            if cell.get("cell_type") == "code"
            and (source := cell.get("source", cell.get("input", "")))
        ]
        if not all(isinstance(code, str) for _, code in codes):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UnreadableError("it is not a notebook") from None
    if str(language).lower() != "python":
        return Notebook("", [Cell(0, 1)], [])
    return _program(codes)


def _program(codes: list[tuple[int, str]]) -> Notebook:
    lines: list[str] = []
    found = [Cell(0, 1)]
    broken: list[tuple[int, int, str]] = []
    for number, code in codes:
        found.append(Cell(number, len(lines) + 1))
        own = _without_magics(code)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ast.parse("\n".join(own))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = getattr(error, "lineno", None) or 1
            broken.append((number, line, getattr(error, "msg", None) or "it cannot be parsed"))
            own = [""] * len(own)
        lines += own
    return Notebook("\n".join(lines), found, broken)


def _without_magics(code: str) -> list[str]:
    lines = re.split(r"\r\n|\r|\n", code)
    first = next((number for number, line in enumerate(lines) if line.strip()), 0)
    if lines[first].startswith("%%"):
        if not _PYTHON_CELLS.match(lines[first]):
            return [""] * len(lines)
        lines[first] = ""
    result, continued = [], False
    for line in lines:
        if continued:
            continued = line.rstrip().endswith("\\")
            result.append("")
            continue
        magic = _MAGIC.match(line)
        assigned = _ASSIGNED_MAGIC.match(line)
        is_shell = magic is not None and not line.lstrip().startswith("#")
        continued = (is_shell or assigned is not None) and line.rstrip().endswith("\\")
        if assigned is not None:
            result.append(assigned[1] + "None")
        elif is_shell and magic is not None:
            result.append(magic[1] + "pass")
        else:
            result.append(line)
    return result

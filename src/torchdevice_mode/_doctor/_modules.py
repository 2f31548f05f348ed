"""Finds the files of a project that an import executes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from ._flow import Imported

__all__ = ["Edge", "resolved"]


class Edge(NamedTuple):
    """An import of a file by another: at which line, and whether it happens for certain."""

    target: str
    line: int
    sure: bool


def resolved(
    imports: Iterable[Imported], path: str, exists: Callable[[str], bool], folders: Sequence[str]
) -> Iterator[Edge]:
    """The files of a project that a file imports.

    Args:
        imports: The imports of the file.
        path: The file.
        exists: Whether a path is a file of the project.
        folders: Where absolute imports are looked up, besides the file's own folder.
    """
    own = os.path.dirname(path) or "."  # noqa: PTH120
    sources = [os.path.join(folder, "src") for folder in folders]  # noqa: PTH118
    for imported in imports:
        bases = [own, *folders, *sources]
        if imported.level:
            bases = ["/".join([own, *[".."] * (imported.level - 1)])]
        for base in bases:
            targets = list(_files_of(imported, base, exists))
            if targets:
                yield from (Edge(target, imported.line, imported.sure) for target in targets)
                break


def _files_of(imported: Imported, base: str, exists: Callable[[str], bool]) -> Iterator[str]:
    """The files that one import executes, packages on the way included."""
    place = base
    candidates = []
    if not imported.module and imported.level:
        candidates.append(f"{place}/__init__.py")
    for part in imported.module.split(".") if imported.module else ():
        place = f"{place}/{part}"
        candidates += [f"{place}/__init__.py", f"{place}.py"]
    for name in imported.names:
        candidates += [f"{place}/{name}/__init__.py", f"{place}/{name}.py"]
    for candidate in candidates:
        found = os.path.normpath(candidate)
        if exists(found):
            yield found

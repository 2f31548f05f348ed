"""Finds the files of a project that an import executes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile
from typing import NamedTuple

from ._flow import Imported
from ._search_path import Folder

__all__ = ["Edge", "Search"]


class Edge(NamedTuple):
    """An import of a file by another.

    Attributes:
        target: The file that is imported.
        imported: The import; where it is sure, executing the importing file comes to it.
    """

    target: str
    imported: Imported


class Search:
    """Looks up imports.

    A program's own folder is the first on its search path, and which programs a file is imported
    by is not known: so the folders above the file are looked in, up to that of the project.

    Args:
        roots: Folders in which absolute imports are looked up.
        exists: Whether a path is a file.
    """

    def __init__(self, roots: Iterable[str], exists: Callable[[str], bool]) -> None:
        self.roots = list(dict.fromkeys(os.path.normpath(root) for root in roots))
        self.exists = exists
        self._added: dict[str, None] = {}
        self._folders: dict[str, list[str]] = {}

    def add(self, path: str, folders: Iterable[Folder]) -> None:
        """Let a file add folders to the search path.

        Args:
            path: The file.
            folders: What it adds.
        """
        for folder in folders:
            bases = [os.path.dirname(path)] if folder.own else [os.path.dirname(path), *self.roots]  # noqa: PTH120
            for base in bases:
                found = os.path.normpath(os.path.join(base, folder.path))  # noqa: PTH118
                if found not in self._added:
                    self._added[found] = None
                    self._folders.clear()

    def edges(self, imports: Iterable[Imported], path: str) -> Iterator[Edge]:
        """The files of a project that a file imports.

        Args:
            imports: The imports of the file.
            path: The file.
        """
        own = os.path.dirname(path) or "."  # noqa: PTH120
        for imported in imports:
            bases = self._absolute(own)
            if imported.level:
                bases = ["/".join([own, *[".."] * (imported.level - 1)])]
            for target in self._targets(imported, bases):
                yield Edge(target, imported)

    def _targets(self, imported: Imported, bases: Iterable[str]) -> list[str]:
        """The files of the first folder that has all of a module, else of one that has a part."""
        part: list[str] = []
        for base in bases:
            targets, whole = _files_of(imported, base, self.exists)
            if whole:
                return targets
            part = part or targets
        return part

    def _absolute(self, own: str) -> list[str]:
        """Where absolute imports of the files of a folder are looked up, in order."""
        if own not in self._folders:
            packages: list[str] = []
            others: list[str] = []
            for folder in self._up_to_root(own):
                is_package = self.exists(os.path.normpath(f"{folder}/__init__.py"))
                (packages if is_package else others).append(folder)
            sources = [f"{folder}/src" for folder in self.roots]
            near = sorted(self._added, key=lambda added: -_shared(added, own))
            self._folders[own] = [*others, *self.roots, *sources, *near, *packages]
        return self._folders[own]

    def _up_to_root(self, own: str) -> Iterator[str]:
        """A folder and those above it, as far as a root; itself only, if it is below none."""
        yield own
        if not any(_is_below(own, root) for root in self.roots):
            return
        while own not in self.roots:
            own = os.path.dirname(own) or "."  # noqa: PTH120
            yield own


def _is_below(folder: str, root: str) -> bool:
    if root == ".":
        return not folder.startswith(("/", ".."))
    return folder == root or folder.startswith(root.rstrip("/") + "/")


def _shared(one: str, other: str) -> int:
    """How many folders two paths begin with alike."""
    pairs = zip(one.split("/"), other.split("/"), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _files_of(
    imported: Imported, base: str, exists: Callable[[str], bool]
) -> tuple[list[str], bool]:
    """The files that one import executes in a folder, packages on the way included.

    Returns:
        The files, and whether the module itself, or a name that is imported from it, is one.
    """
    place = base
    candidates = []
    if not imported.module and imported.level:
        candidates.append(f"{place}/__init__.py")
    parts = imported.module.split(".") if imported.module else []
    for part in parts:
        place = f"{place}/{part}"
        candidates += [f"{place}/__init__.py", f"{place}.py"]
    last = len(candidates) - 2 if parts else 0
    for name in imported.names:
        candidates += [f"{place}/{name}/__init__.py", f"{place}/{name}.py"]
    found = [exists(os.path.normpath(candidate)) for candidate in candidates]
    targets = [os.path.normpath(one) for one, there in zip(candidates, found, strict=True) if there]
    return targets, any(found[last:])

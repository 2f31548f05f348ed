"""Which files there are to read below the paths that were given."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

__all__ = ["EXCLUDED", "PYTHON", "is_requirements", "local_modules", "roots_of", "walk"]

EXCLUDED = (
    *(".git", ".hg", ".svn", ".venv", "venv", ".tox", ".nox", ".eggs", "*.egg-info"),
    *("node_modules", "build", "dist", "_build", "__pycache__", "site-packages"),
    *(".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", ".ipynb_checkpoints"),
)
"""Names of folders that are passed over, besides virtual environments under any name."""

PYTHON = frozenset({".py", ".pyw", ".ipynb"})
# What lies in the folder of a project, and how far up it is looked for.
_PROJECT = (".git", "pyproject.toml", "setup.py", "setup.cfg")
_DEPTH = 6
CUDA_SOURCES = frozenset({".cu", ".cuh"})
_REQUIREMENTS = (
    *("*requirements*.txt", "requirements/*.txt", "pyproject.toml", "setup.cfg", "Pipfile"),
    *("*environment*.yml", "*environment*.yaml", "conda*.yml", "conda*.yaml", "env*.yml"),
)


def is_requirements(path: Path) -> bool:
    """Whether a file lists what a project needs."""
    short = f"{path.parent.name}/{path.name}"
    return any(fnmatch(short if "/" in p else path.name, p) for p in _REQUIREMENTS)


def walk(paths: Sequence[Path], exclude: Iterable[str] = ()) -> list[Path]:
    """The files to read: those given, and those below the folders given.

    Args:
        paths: Files and folders.
        exclude: Patterns of names, or of paths below a folder given, to pass over besides
            `EXCLUDED`.

    Returns:
        Files, each once, those of a folder in the order of their names.
    """
    patterns = tuple(exclude)
    found: dict[str, Path] = {}
    for path in paths:
        if path.is_dir():
            for file in _below(path, path, patterns, set()):
                found.setdefault(os.path.realpath(file), file)
        elif not _matches(path, path.parent, patterns):
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _below(
    folder: Path, root: Path, patterns: tuple[str, ...], seen: set[tuple[int, int]]
) -> Iterator[Path]:
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return  # no right to look; nothing in it can be run either
    if (status.st_dev, status.st_ino) in seen:
        return  # a link to a folder that holds it
    seen.add((status.st_dev, status.st_ino))
    folders = []
    for entry in entries:
        path = Path(entry.path)
        if _matches(path, root, patterns):
            continue
        try:
            is_folder = entry.is_dir()
        except OSError:
            continue
        if is_folder:
            excluded = any(fnmatch(entry.name, pattern) for pattern in EXCLUDED)
            if not excluded and not (path / "pyvenv.cfg").exists():
                folders.append(path)
        elif path.suffix in PYTHON | CUDA_SOURCES or is_requirements(path):
            yield path
    for path in folders:
        yield from _below(path, root, patterns, seen)


def _matches(path: Path, root: Path, patterns: tuple[str, ...]) -> bool:
    if not patterns:
        return False
    try:
        relative = path.relative_to(root).as_posix()
    except ValueError:
        relative = path.as_posix()
    return any(
        fnmatch(path.name, pattern) or fnmatch(relative, pattern.rstrip("/"))
        for pattern in patterns
    )


def roots_of(path: Path) -> list[Path]:
    """Folders in which a program finds the modules of its project.

    Args:
        path: What was given: a folder, or a file.

    Returns:
        The folder, or that of the file, and the folder of the project that it is in.
    """
    own = path if path.is_dir() else path.parent
    for folder in (own, *(own / "/".join([".."] * depth) for depth in range(1, _DEPTH))):
        if any((folder / name).exists() for name in _PROJECT):
            return [own] if folder == own else [own, folder]
    return [own]


def local_modules(file: Path, roots: Iterable[Path]) -> frozenset[str]:
    """Modules that a file's absolute imports find in the project itself."""
    folders = [*roots, *(root / "src" for root in roots)]
    if not (file.parent / "__init__.py").exists():
        folders.append(file.parent)  # a script's own folder comes first on the path
    return frozenset(name for folder in folders for name in _modules_in(folder))


@cache
def _modules_in(folder: Path) -> frozenset[str]:
    try:
        entries = list(os.scandir(folder)) if folder.is_dir() else []
    except OSError:
        return frozenset()
    return frozenset(
        Path(entry.name).stem
        for entry in entries
        if entry.name.endswith(".py") or (entry.is_dir() and _holds_python(Path(entry.path)))
    )


def _holds_python(folder: Path) -> bool:
    try:
        return any(entry.name.endswith(".py") for entry in os.scandir(folder))
    except OSError:
        return False

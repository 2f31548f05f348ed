"""Reads files and folders: the doctor as a whole, without its output."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ._checks import Examined, examine
from ._findings import Finding, Severity
from ._found import Lookup
from ._modules import Search
from ._requirements import examine_requirements, examine_source
from ._rules import STATES
from ._sources import UnreadableError, notebook, read
from ._tree import CUDA_SOURCES, is_requirements, local_modules, roots_of, walk
from ._verdict import Program, judge, sentence

__all__ = ["Diagnosis", "Selection", "diagnose"]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rules count.

    Attributes:
        select: Ids, or their beginnings; only these, where any is given.
        ignore: Ids, or their beginnings, to leave out.
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def holds(self, rule: str) -> bool:
        """Whether a rule counts."""
        chosen = not self.select or rule.startswith(self.select)
        return chosen and not (self.ignore and rule.startswith(self.ignore))


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found in all files.

    Attributes:
        examined: The files, in order.
        programs: Those that are programs, judged.
        verdict: One of `Verdict`.
        sentence: The verdict on all, in one sentence.
    """

    examined: list[Examined]
    programs: list[Program]
    verdict: str
    sentence: str

    @property
    def findings(self) -> list[Finding]:
        """All findings, file by file."""
        return [finding for one in self.examined for finding in one.findings]

    def count(self, severity: Severity) -> int:
        """How many findings are as serious as this."""
        return sum(finding.severity is severity for finding in self.findings)

    def states(self) -> dict[str, int]:
        """How many names of torch have each state."""
        counted = Counter(finding.state for finding in self.findings if finding.state)
        return {state: counted[state] for state in STATES if counted[state]}


def diagnose(
    paths: Sequence[Path],
    lookup: Lookup,
    *,
    target: str = "mps",
    exclude: Iterable[str] = (),
    selection: Selection = Selection(),
    cuda_build: bool = False,
    progress: Callable[[Sequence[Path]], Iterable[Path]] = iter,
) -> Diagnosis:
    """Read files and folders.

    Args:
        paths: What to read.
        lookup: Gives the state of a name of torch.
        target: The type of device that the programs are to run on.
        exclude: Patterns of files and folders to pass over.
        selection: Which rules count.
        cuda_build: Whether torch was built for CUDA, though the target is not CUDA.
        progress: Goes through the files, and may show how far it is.

    Returns:
        What was found.
    """
    patterns = tuple(exclude)
    files = walk(paths, patterns)
    roots = list(dict.fromkeys(root for path in paths for root in roots_of(path)))
    # What is built from CUDA source is known from the scripts that build.
    files.sort(key=lambda path: not _builds(path))
    extensions: set[str] = set()
    read_files: dict[Path, Examined] = {}

    def examine_one(path: Path) -> Examined:
        one = _examine(path, lookup, target, roots, extensions=extensions, cuda_build=cuda_build)
        extensions.update(one.extensions)
        one.findings = [finding for finding in one.findings if selection.holds(finding.rule)]
        return one

    with _no_collection():
        for setup in (root / "setup.py" for root in roots):
            if setup.is_file() and setup not in files:
                examine_one(setup)
        for path in progress(files):
            read_files[path] = examine_one(path)
        # A program that was named is told of with what it imports from its project.
        waiting = [path for path in paths if path in read_files]
        search = Search(map(str, roots), os.path.isfile)
        while waiting:
            for path in _imported(read_files[waiting.pop()], search, read_files):
                if walk([path], patterns):
                    read_files[path] = examine_one(path)
                    waiting.append(path)
    examined = [read_files[path] for path in sorted(read_files)]
    programs = judge([one for one in examined if one.is_code], roots)
    return Diagnosis(examined, programs, *sentence(examined, programs))


def _imported(one: Examined, search: Search, known: Container[Path]) -> list[Path]:
    """Files that a file imports, and that are not read yet."""
    search.add(one.path, one.added)
    edges = search.edges(one.imported, one.path)
    found = dict.fromkeys(Path(edge.target) for edge in edges)
    return [path for path in found if path not in known]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Leave out the search for cycles: syntax trees have none, and many nodes to search."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _builds(path: Path) -> bool:
    return path.name.startswith(("setup", "build")) and path.suffix == ".py"


def _examine(
    path: Path,
    lookup: Lookup,
    target: str,
    roots: Sequence[Path],
    *,
    extensions: set[str],
    cuda_build: bool,
) -> Examined:
    name = str(path)
    try:
        if path.suffix in CUDA_SOURCES:
            first_line = next(iter(_head(path)), "")
            return Examined(name, examine_source(name, first_line, target), is_code=False)
        text = read(path)
        if is_requirements(path):
            return Examined(name, examine_requirements(text, name, target), is_code=False)
        options: dict[str, Any] = {
            "target": target,
            "local": local_modules(path, roots),
            "extensions": extensions,
            "cuda_build": cuda_build,
        }
        if path.suffix == ".ipynb":
            return _examine_notebook(name, text, lookup, options)
        return examine(text, name, lookup, **options)
    except UnreadableError as error:
        return Examined(name, [_unreadable(name, str(error))], is_code=False)


def _head(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            yield file.readline(200).rstrip("\n")
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from None


def _examine_notebook(name: str, text: str, lookup: Lookup, options: dict[str, Any]) -> Examined:
    """Read the cells of a notebook as one program; places are those in their cells."""
    book = notebook(text)
    one = examine(book.text, name, lookup, **options)
    placed = []
    for finding in one.findings:
        cell, line = book.place(finding.line)
        last = line + finding.end_line - finding.line
        placed.append(replace(finding, cell=cell, line=line, end_line=last))
    for cell, line, why in book.broken:
        message = f"this cell is not Python, and was passed over: {why.rstrip('.?')}."
        broken = Finding(
            name, line, 1, line, 1, "unparsable-file", Severity.WARNING, message, cell=cell
        )
        placed.append(broken)
    one.findings = sorted(placed, key=lambda finding: (finding.cell, finding.line, finding.column))
    return one


def _unreadable(name: str, why: str) -> Finding:
    message = f"this file could not be read, and was passed over: {why}."
    return Finding(name, 1, 1, 1, 1, "unreadable-file", Severity.WARNING, message)

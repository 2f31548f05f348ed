"""Says in one sentence whether programs would run, by what they and their imports hold."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ._checks import Examined
from ._findings import Finding, Severity
from ._flow import Imported

__all__ = ["Program", "Verdict", "judge", "sentence"]

_NO_PROGRAMS = frozenset({"__init__.py", "conftest.py", "setup.py"})


class Verdict:
    """What becomes of a program."""

    RUNS = "runs unmodified"
    NOTES = "runs with notes"
    FAILS = "will fail"


@dataclass(frozen=True, slots=True)
class Program:
    """A file that is made to be run, or that nothing imports.

    Attributes:
        path: The file.
        verdict: One of `Verdict`.
        finding: Where it fails; where it does not, the first that matters, or None.
    """

    path: str
    verdict: str
    finding: Finding | None


def judge(examined: Sequence[Examined], roots: Iterable[Path] = ()) -> list[Program]:
    """Judge every program among files.

    Args:
        examined: What the files are.
        roots: Folders in which their absolute imports are looked up.

    Returns:
        The programs, in the order of the files.
    """
    files = {os.path.abspath(one.path): one for one in examined}  # noqa: PTH100 - keeps links
    folders = [os.path.abspath(folder) for folder in roots]  # noqa: PTH100
    graph = {path: list(_resolved(one, path, files, folders)) for path, one in files.items()}
    imported = {target for path, edges in graph.items() for target, _ in edges if target != path}
    programs = [
        path
        for path, one in files.items()
        if one.is_program or (path not in imported and os.path.basename(path) not in _NO_PROGRAMS)  # noqa: PTH119
    ]
    return [_program(path, files, graph) for path in programs or files]


def _program(
    path: str, files: Mapping[str, Examined], graph: Mapping[str, list[tuple[str, bool]]]
) -> Program:
    """Judge one: what it imports for certain fails it, too."""
    seen, waiting = {path}, [path]
    while waiting:
        for target, sure in graph[waiting.pop()]:
            if sure and target not in seen:
                seen.add(target)
                waiting.append(target)
    ordered = [path, *sorted(seen - {path})]
    findings = [finding for file in ordered for finding in files[file].findings]
    mentioned = {name for file in seen for name in files[file].mentions}
    errors = [
        finding
        for finding in findings
        if finding.severity is Severity.ERROR and _is_reached(finding, mentioned)
    ]
    # What is done while modules are imported comes before all calls.
    errors.sort(key=lambda finding: bool(finding.function))
    if errors:
        return Program(files[path].path, Verdict.FAILS, errors[0])
    others = [finding for finding in findings if finding.severity > Severity.NOTE]
    verdict = Verdict.NOTES if others else Verdict.RUNS
    return Program(files[path].path, verdict, others[0] if others else None)


def _is_reached(finding: Finding, mentioned: set[str]) -> bool:
    """Whether the function that it is in is mentioned at all; of a method, its class or itself."""
    parts = finding.function.split(".")
    return not finding.function or any(part in mentioned for part in parts)


def _resolved(
    one: Examined, path: str, files: Mapping[str, Examined], folders: Sequence[str]
) -> Iterable[tuple[str, bool]]:
    """The files among those read that a file imports, and whether it does so for certain."""
    own = os.path.dirname(path)  # noqa: PTH120
    for imported in one.imported:
        if imported.level:
            base = own
            for _ in range(imported.level - 1):
                base = os.path.dirname(base)  # noqa: PTH120
            bases = [base]
        else:
            bases = [own, *folders, *(os.path.join(folder, "src") for folder in folders)]  # noqa: PTH118
        for base in bases:
            targets = list(_files_of(imported, base, files))
            if targets:
                yield from ((target, imported.sure) for target in targets)
                break


def _files_of(imported: Imported, base: str, files: Mapping[str, Examined]) -> Iterable[str]:
    """The files that one import executes, packages on the way included."""
    place = base
    if not imported.module and imported.level:
        yield from (found for found in (f"{base}/__init__.py",) if found in files)
    for part in imported.module.split(".") if imported.module else ():
        place = f"{place}/{part}"
        yield from (found for found in (f"{place}/__init__.py", f"{place}.py") if found in files)
    for name in imported.names:
        for found in (f"{place}/{name}/__init__.py", f"{place}/{name}.py"):
            if found in files:
                yield found


def sentence(examined: Sequence[Examined], programs: Sequence[Program]) -> tuple[str, str]:
    """The verdict on all of it.

    Args:
        examined: What the files are.
        programs: The programs among them, judged.

    Returns:
        One of `Verdict`, and the sentence.
    """
    findings = [finding for one in examined for finding in one.findings]
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    failing = [program for program in programs if program.verdict == Verdict.FAILS]
    if failing:
        first = failing[0]
        assert first.finding is not None
        text = _failure(first.finding)
        if len(programs) > 1:
            same = first.path == first.finding.path
            who = "the first of the others" if same else first.path
            running = len(programs) - len(failing) or "none"
            text = f"{running} of {len(programs)} programs would run; {who} {text}"
        elif first.path != first.finding.path:
            text = f"{first.path} {text}"
        return Verdict.FAILS, _one_sentence(text)
    if errors:
        place = _failure(errors[0])
        return Verdict.FAILS, _one_sentence(f"the programs would run, and other code {place}")
    warnings = sum(finding.severity is Severity.WARNING for finding in findings)
    if warnings:
        notes = "1 warning" if warnings == 1 else f"{warnings} warnings"
        return Verdict.NOTES, f"runs with notes: {notes}, and nothing that must fail."
    return Verdict.RUNS, "runs unmodified."


def _failure(finding: Finding) -> str:
    when = f" when {finding.function} is called" if finding.function else ""
    because = finding.message.rstrip(".")
    return f"will fail at {finding.place}{when}, because {because}"


def _one_sentence(text: str) -> str:
    return text.rstrip(".") + "."

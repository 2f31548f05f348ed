"""Says in one sentence whether programs would run, by what they and their imports hold."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ._checks import Examined
from ._findings import Finding, Severity
from ._flow import IMPORT_ERRORS
from ._modules import Edge, Search

__all__ = ["Program", "Verdict", "judge", "sentence"]

_EVERYTHING = frozenset({"Exception", "BaseException"})
_CATCH = {
    "cuda-package": IMPORT_ERRORS,
    "cuda-extension-import": IMPORT_ERRORS,
    "cuda-extension-build": _EVERYTHING | {"OSError", "RuntimeError"},
}
"""What catches that a module of the project fails while it is imported, by the rule."""

_NO_PROGRAMS = frozenset({"__init__.py", "conftest.py", "setup.py"})


class Verdict:
    """What becomes of a program."""

    RUNS = "runs unmodified"
    NOTES = "runs with notes"
    FAILS = "will fail"
    UNKNOWN = "cannot be told"


@dataclass(frozen=True, slots=True)
class Program:
    """A file that is made to be run, or that nothing imports.

    Attributes:
        path: The file.
        verdict: One of `Verdict`.
        finding: Where it fails; where it does not, the first that matters, or None. An error, in
            a program that is not said to fail, is in what it may import.
    """

    path: str
    verdict: str
    finding: Finding | None

    @property
    def may_fail(self) -> bool:
        """Whether it fails only if it comes to an import that it may not come to."""
        found = self.finding
        return self.verdict == Verdict.NOTES and bool(found and found.severity is Severity.ERROR)


def judge(examined: Sequence[Examined], roots: Iterable[Path] = ()) -> list[Program]:
    """Judge every program among files.

    Args:
        examined: What the files are.
        roots: Folders in which their absolute imports are looked up.

    Returns:
        The programs, in the order of the files.
    """
    return _Judge(examined, roots).programs()


class _Judge:
    """Follows what programs import and call, from file to file."""

    def __init__(self, examined: Sequence[Examined], roots: Iterable[Path]) -> None:
        self.files = {os.path.abspath(one.path): one for one in examined}  # noqa: PTH100 - links
        folders = [os.path.abspath(folder) for folder in roots]  # noqa: PTH100
        search = Search(folders, self.files.__contains__)
        for path, one in self.files.items():
            search.add(path, one.added)
        self.edges = {
            path: list(search.edges(one.imported, path)) for path, one in self.files.items()
        }
        # Functions and classes by name, with what each mentions of the others.
        names = {name for one in examined for name in one.mentions if name}
        self.mentioned: dict[str, list[tuple[str, set[str]]]] = {}
        for path, one in self.files.items():
            for name, mentions in one.mentions.items():
                self.mentioned.setdefault(name, []).append((path, mentions & names))
        self._steps: dict[str, list[Finding | Edge]] = {}
        self._failing: dict[str, Finding | None] = {}

    def programs(self) -> list[Program]:
        """The programs, judged."""
        imported = {
            edge.target
            for path, edges in self.edges.items()
            for edge in edges
            if edge.target != path
        }
        found = [
            path
            for path, one in self.files.items()
            if os.path.basename(path) not in _NO_PROGRAMS  # noqa: PTH119
            and (one.is_program or path not in imported)
        ]
        return [self._program(path) for path in found or self.files]

    def _program(self, path: str) -> Program:
        """Judge one: what it imports for certain fails it, too."""
        findings, seen = self._in_order(path)
        errors = [finding for finding in findings if finding.severity is Severity.ERROR]
        if any(finding.function for finding in errors):
            used = self._used(path, seen)
            errors = [one for one in errors if not one.function or _owner(one) in used]
        # What is done while modules are imported comes before all calls.
        errors.sort(key=lambda finding: bool(finding.function))
        own = self.files[path].path
        if errors:
            return Program(own, Verdict.FAILS, errors[0])
        first = self._possible(path, seen) or next(iter(findings), None)
        return Program(own, Verdict.RUNS if first is None else Verdict.NOTES, first)

    def _in_order(self, path: str) -> tuple[list[Finding], dict[str, frozenset[str]]]:
        """What happens when a file is executed.

        Returns:
            The findings that matter of it and its imports, in the order of execution; and these
            files, each with the exceptions that are caught around its import.
        """
        found: list[Finding] = []
        seen = {path: frozenset[str]()}
        stack = [(iter(self._happens(path)), seen[path])]
        while stack:
            steps, caught = stack[-1]
            step = next(steps, None)
            if step is None:
                stack.pop()
            elif isinstance(step, Finding):
                found.append(replace(step, severity=_severity(step, caught)))
            else:
                here = caught | step.imported.caught
                if step.target not in seen or not seen[step.target] <= here:
                    seen[step.target] = here & seen.get(step.target, here)
                    stack.append((iter(self._happens(step.target)), seen[step.target]))
        return found, seen

    def _happens(self, path: str) -> list[Finding | Edge]:
        """What happens in a file, line by line: a finding, or another file that is imported."""
        if path not in self._steps:
            steps: list[tuple[int, Finding | Edge]]
            steps = [(edge.imported.line, edge) for edge in self.edges[path] if edge.imported.sure]
            findings = self.files[path].findings
            steps += [(one.line, one) for one in findings if one.severity > Severity.NOTE]
            self._steps[path] = [step for _, step in sorted(steps, key=lambda row: row[0])]
        return self._steps[path]

    def _possible(self, path: str, seen: Iterable[str]) -> Finding | None:
        """What fails in a file that a program may import: on a condition, or in a function."""
        late = [
            (edge, failing)
            for file in seen
            for edge in self.edges[file]
            if not edge.imported.sure and (failing := self._fails(edge.target)) is not None
        ]
        used = {""}
        if any(edge.imported.owner for edge, _ in late):
            used = self._used(path, seen)
        for edge, failing in late:
            if edge.imported.owner in used:
                severity = _severity(failing, edge.imported.caught)
                if severity is Severity.ERROR:
                    return failing
        return None

    def _fails(self, path: str) -> Finding | None:
        """What fails when a file is imported, in it or in what it imports."""
        if path not in self._failing:
            findings, _ = self._in_order(path)
            failing = [f for f in findings if f.severity is Severity.ERROR and not f.function]
            self._failing[path] = failing[0] if failing else None
        return self._failing[path]

    def _used(self, path: str, seen: Iterable[str]) -> set[str]:
        """Names that a program may call: those that it mentions, that these mention, and so on.

        What a module only mentions while it is imported, in a table of classes say, it does not
        use.
        """
        used = {"", *self.files[path].mentions.get("", ())}
        for file in seen:
            used |= self.files[file].called
        waiting = [name for name in used if name]
        within = set(seen)
        while waiting:
            for file, mentions in self.mentioned.get(waiting.pop(), ()):
                if file in within:
                    new = mentions - used
                    used |= new
                    waiting += new
        return used


def _severity(finding: Finding, caught: frozenset[str]) -> Severity:
    """How much a finding matters where a module is imported that it is in."""
    catch = _CATCH.get(finding.rule, _EVERYTHING)
    if finding.severity is Severity.ERROR and not finding.function and caught & catch:
        return Severity.WARNING
    return finding.severity


def _owner(finding: Finding) -> str:
    """The function or class at the level of the module that a finding is in."""
    return finding.function.partition(".")[0]


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
    doubtful = [program for program in programs if program.may_fail]
    if failing:
        first = failing[0]
        assert first.finding is not None
        text = _failure(first.finding)
        if len(programs) > 1:
            same = first.path == first.finding.path
            who = "the first of the others" if same else first.path
            running = len(programs) - len(failing) or "none"
            limit = f" ({len(doubtful)} of them may import what fails)" if doubtful else ""
            text = f"{running} of {len(programs)} programs would run{limit}; {who} {text}"
        elif first.path != first.finding.path:
            text = f"{first.path} {text}"
        return Verdict.FAILS, _one_sentence(text)
    passed_over = [one for one in findings if one.rule in ("unparsable-file", "unreadable-file")]
    if passed_over and not programs:
        first_place = passed_over[0].place
        return Verdict.UNKNOWN, f"cannot be told, as {first_place} was passed over."
    if doubtful:
        assert doubtful[0].finding is not None
        text = _failure(doubtful[0].finding, "may")
        return Verdict.FAILS, _one_sentence(f"{doubtful[0].path} {text}")
    if errors:
        place = _failure(errors[0])
        return Verdict.FAILS, _one_sentence(f"the programs would run, and other code {place}")
    warnings = sum(finding.severity is Severity.WARNING for finding in findings)
    if warnings:
        notes = "1 warning" if warnings == 1 else f"{warnings} warnings"
        return Verdict.NOTES, f"runs with notes: {notes}, and nothing that must fail."
    return Verdict.RUNS, "runs unmodified."


def _failure(finding: Finding, verb: str = "will") -> str:
    when = f" when {finding.function} is called" if finding.function else ""
    because = finding.message.rstrip(".")
    return f"{verb} fail at {finding.place}{when}, because {because}"


def _one_sentence(text: str) -> str:
    return text.rstrip(".") + "."

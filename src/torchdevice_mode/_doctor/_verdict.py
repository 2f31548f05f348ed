"""Says in one sentence whether programs would run, by what they and their imports hold."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ._checks import Examined
from ._findings import Finding, Severity
from ._modules import resolved

__all__ = ["Program", "Verdict", "judge", "sentence"]

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
    return _Judge(examined, roots).programs()


class _Judge:
    """Follows what programs import and call, from file to file."""

    def __init__(self, examined: Sequence[Examined], roots: Iterable[Path]) -> None:
        self.files = {os.path.abspath(one.path): one for one in examined}  # noqa: PTH100 - links
        folders = [os.path.abspath(folder) for folder in roots]  # noqa: PTH100
        self.edges = {
            path: list(resolved(one.imported, path, self.files.__contains__, folders))
            for path, one in self.files.items()
        }
        # Functions and classes by name, with what each mentions of the others.
        names = {name for one in examined for name in one.mentions if name}
        self.mentioned: dict[str, list[tuple[str, set[str]]]] = {}
        for path, one in self.files.items():
            for name, mentions in one.mentions.items():
                self.mentioned.setdefault(name, []).append((path, mentions & names))
        self._steps: dict[str, list[Finding | str]] = {}

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
            errors = [one for one in errors if _owner(one) in used]
        # What is done while modules are imported comes before all calls.
        errors.sort(key=lambda finding: bool(finding.function))
        own = self.files[path].path
        if errors:
            return Program(own, Verdict.FAILS, errors[0])
        first = next((one for one in findings if one.severity > Severity.NOTE), None)
        return Program(own, Verdict.RUNS if first is None else Verdict.NOTES, first)

    def _in_order(self, path: str) -> tuple[list[Finding], set[str]]:
        """The findings of a file and its imports in the order of execution, and these files."""
        found: list[Finding] = []
        seen = {path}
        stack = [iter(self._happens(path))]
        while stack:
            step = next(stack[-1], None)
            if step is None:
                stack.pop()
            elif isinstance(step, Finding):
                found.append(step)
            elif step not in seen:
                seen.add(step)
                stack.append(iter(self._happens(step)))
        return found, seen

    def _happens(self, path: str) -> list[Finding | str]:
        """What happens in a file, line by line: a finding, or another file that is imported."""
        if path not in self._steps:
            steps: list[tuple[int, Finding | str]]
            steps = [(edge.line, edge.target) for edge in self.edges[path] if edge.sure]
            findings = self.files[path].findings
            steps += [(one.line, one) for one in findings if one.severity > Severity.NOTE]
            self._steps[path] = [step for _, step in sorted(steps, key=lambda row: row[0])]
        return self._steps[path]

    def _used(self, path: str, seen: set[str]) -> set[str]:
        """Names that a program may call: those that it mentions, that these mention, and so on.

        What a module only mentions while it is imported, in a table of classes say, it does not
        use.
        """
        used = {"", *self.files[path].mentions.get("", ())}
        for file in seen:
            used |= self.files[file].called
        waiting = [name for name in used if name]
        while waiting:
            for file, mentions in self.mentioned.get(waiting.pop(), ()):
                if file in seen:
                    new = mentions - used
                    used |= new
                    waiting += new
        return used


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
    passed_over = [one for one in findings if one.rule in ("unparsable-file", "unreadable-file")]
    if passed_over and not programs:
        first_place = passed_over[0].place
        return Verdict.UNKNOWN, f"cannot be told, as {first_place} was passed over."
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

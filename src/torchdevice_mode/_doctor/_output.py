"""A diagnosis as text, as JSON and as SARIF."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from .. import __version__
from .._words import counted
from ._findings import Finding, Severity
from ._project import Diagnosis
from ._rules import RULES

__all__ = ["SCHEMA", "lines", "to_json", "to_sarif"]

SCHEMA = 1
"""Version of the JSON; a change that readers must know of raises it."""

_PAGE = "docs/doctor.md"
_STYLES = {"note": "cyan", "warning": "yellow", "error": "bold red"}

Segment = tuple[str, str]
"""A piece of a line, and its style."""


def lines(diagnosis: Diagnosis, *, least: Severity = Severity.NOTE) -> Iterator[list[Segment]]:
    """The diagnosis as lines for people: file by file, line by line of their source.

    Args:
        diagnosis: What was found.
        least: Findings that matter less are counted, and not shown.

    Yields:
        Lines, in pieces with styles.
    """
    advised: set[str] = set()
    for one in diagnosis.examined:
        findings = [finding for finding in one.findings if finding.severity >= least]
        if not findings:
            continue
        yield [(one.path, "bold")]
        before = (-1, -1)
        for finding in findings:
            if (finding.cell, finding.line) != before:
                before = (finding.cell, finding.line)
                place = f"cell {finding.cell}:{finding.line}" if finding.cell else f"{finding.line}"
                yield [(f"{place:>6}  ", "dim"), (_shortened(finding.source), "")]
            yield from _finding(finding, advised)
        yield []
    yield from _end(diagnosis)


def _finding(finding: Finding, advised: set[str]) -> Iterator[list[Segment]]:
    word = finding.severity.word
    yield [
        (" " * 8, ""),
        (f"{word:<8}", _STYLES[word]),
        (finding.message, ""),
        (f"  [{finding.rule}]", "dim"),
    ]
    # The same advice is given once.
    if finding.suggestion and finding.suggestion not in advised:
        advised.add(finding.suggestion)
        code = f"{finding.instead}  " if finding.instead else ""
        yield [(" " * 16, ""), ("-> ", "green"), (code, "green"), (finding.suggestion, "")]


def _end(diagnosis: Diagnosis) -> Iterator[list[Segment]]:
    files = len(diagnosis.examined)
    counts = ", ".join(
        counted(diagnosis.count(severity), severity.word) for severity in reversed(Severity)
    )
    yield [(f"{counted(files, 'file')}: {counts}", "")]
    states = diagnosis.states()
    if states:
        listed = ", ".join(f"{count} {state}" for state, count in states.items())
        yield [(f"uses of torch's devices: {listed}", "")]
    style = {"runs unmodified": "bold green", "will fail": "bold red"}
    yield [(f"verdict: {diagnosis.sentence}", style.get(diagnosis.verdict, "bold yellow"))]


def _shortened(text: str, width: int = 100) -> str:
    text = "".join(char if char.isprintable() else " " for char in text)
    return text if len(text) <= width else text[: width - 3] + "..."


def to_json(diagnosis: Diagnosis, *, target: str) -> str:
    """The diagnosis for programs.

    Args:
        diagnosis: What was found.
        target: The type of device that it holds for.

    Returns:
        JSON.
    """
    document = {
        "schema": SCHEMA,
        "torchdevice": __version__,
        "target": target,
        "verdict": diagnosis.verdict,
        "sentence": diagnosis.sentence,
        "files": len(diagnosis.examined),
        "counts": {severity.word: diagnosis.count(severity) for severity in Severity},
        "states": diagnosis.states(),
        "programs": [
            {
                "path": program.path,
                "verdict": program.verdict,
                "place": program.finding.place if program.finding else None,
            }
            for program in diagnosis.programs
        ],
        "findings": [_json_finding(finding) for finding in diagnosis.findings],
    }
    return json.dumps(document, indent=2)


def _json_finding(finding: Finding) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: getattr(finding, name) for name in Finding.__dataclass_fields__ if name != "severity"
    }
    return {**found, "severity": finding.severity.word}


# --- SARIF -------------------------------------------------------------------------------------


def to_sarif(diagnosis: Diagnosis) -> str:
    """The diagnosis for tools of code review: SARIF 2.1.0.

    Args:
        diagnosis: What was found.

    Returns:
        JSON.
    """
    numbers = {rule.id: number for number, rule in enumerate(RULES)}
    driver = {
        "name": "torchdevice doctor",
        "version": __version__,
        "semanticVersion": __version__,
        "rules": [
            {
                "id": rule.id,
                "shortDescription": {"text": f"{rule.title}."},
                "fullDescription": {"text": rule.help},
                "help": {"text": f"{rule.help} See {_PAGE}."},
                "defaultConfiguration": {"level": rule.severity.word},
            }
            for rule in RULES
        ],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(finding, numbers) for finding in diagnosis.findings],
    }
    document = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [run],
    }
    return json.dumps(document, indent=2)


def _result(finding: Finding, numbers: dict[str, int]) -> dict[str, Any]:
    text = finding.message
    if finding.suggestion:
        text += f" {finding.suggestion}"
    physical: dict[str, Any] = {"artifactLocation": {"uri": _uri(finding.path)}}
    location: dict[str, Any] = {"physicalLocation": physical}
    if finding.cell:
        # Lines of a cell are no lines of the file.
        name = f"cell {finding.cell}, line {finding.line}"
        location["logicalLocations"] = [{"name": name, "kind": "member"}]
        text = f"{name}: {text}"
    else:
        physical["region"] = {
            "startLine": finding.line,
            "startColumn": finding.column,
            "endLine": finding.end_line,
            "endColumn": max(finding.end_column, 1),
        }
        if finding.source:
            physical["region"]["snippet"] = {"text": finding.source}
    return {
        "ruleId": finding.rule,
        "ruleIndex": numbers[finding.rule],
        "level": finding.severity.word,
        "message": {"text": text},
        "locations": [location],
        "properties": {"state": finding.state, "name": finding.name},
    }


def _uri(path: str) -> str:
    """A path as a relative reference where it is one, as a file's address where it is not."""
    prefix = "file://" if os.path.isabs(path) else ""  # noqa: PTH117 - no more than a question
    return prefix + quote(path.replace(os.sep, "/").removeprefix("./"))

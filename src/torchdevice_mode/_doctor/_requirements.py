"""Reads lists of requirements for what only machines of NVIDIA's can install."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from ._findings import Finding, Severity
from ._flow import Where
from ._found import Found
from ._names import Scope
from ._packages import by_requirement

__all__ = ["examine_requirements", "examine_source"]

_BUILD = re.compile(r"\+cu\d{2,3}\b|/whl/(nightly/)?cu\d{2,3}\b|[=_]cuda\d|\bcudnn\d")
_TOOLKIT = re.compile(r"pytorch-cuda|cudatoolkit.*|cuda(-.*)?|cudnn|nccl|nvidia-.*", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_QUOTED = re.compile(r"\"([^\"]*)\"|'([^']*)'")
_MARKER = re.compile(r"sys_platform|platform_system|platform_machine|os_name")
_KEY = re.compile(r"[\w.-]+\s*=")
_OPTIONAL = re.compile(r"optional|extra|group|\bdev\b|dev-")


def examine_requirements(text: str, path: str, target: str) -> list[Finding]:
    """Read a list of requirements.

    Args:
        text: Of requirements.txt, pyproject.toml, environment.yml or their like.
        path: The file, as findings name it.
        target: The type of device that the program is to run on.

    Returns:
        What was found.
    """
    lines = text.splitlines()
    found = Found(path, lines, lambda name: None, target)
    where = _where()
    section, key = "", ""
    for number, line in enumerate(lines, 1):
        code = line.partition("#")[0] if not _BUILD.search(line) else line.partition(" #")[0]
        if code.startswith("["):
            section, key = code, ""
        elif _KEY.match(code):
            key = code.partition("=")[0].strip()
        if not code.strip() or _MARKER.search(code):
            continue
        severity = Severity.NOTE if _OPTIONAL.search(f"{section} {key}") else None
        node = _node(number, line)
        build = _BUILD.search(code)
        if build is not None:
            message = f"{build[0].strip('=_/')!r} asks for a build for CUDA"
            suggestion = "Ask for the plain version, and let each machine choose its build."
            found.add(
                node,
                "cuda-requirement",
                message,
                where,
                about=build[0],
                suggestion=suggestion,
                severity=severity,
            )
            continue
        for name in _names(code, path) if _lists(path, section, key) else ():
            package = by_requirement(name)
            if package is not None:
                message = f"{name} is for CUDA, as {package.reason}"
            elif _TOOLKIT.fullmatch(name):
                message = f"{name} is a part of CUDA"
            else:
                continue
            found.add(
                node,
                "cuda-requirement",
                message,
                where,
                about=name,
                suggestion="Move it to an extra, or give it a marker.",
                severity=severity,
            )
    return found.findings


def examine_source(path: str, first_line: str, target: str) -> list[Finding]:
    """The finding for a source file in CUDA."""
    found = Found(path, [first_line], lambda name: None, target)
    found.add(
        _node(1, first_line),
        "cuda-source",
        "this is CUDA source, which only nvcc compiles and only NVIDIA's devices run",
        _where(),
        suggestion="Give what it computes a version in torch's own operators.",
    )
    return found.findings


def _lists(path: str, section: str, key: str) -> bool:
    """Whether a place of a file lists requirements; in files of keys and sections few do."""
    if not path.endswith((".toml", ".cfg", "Pipfile")):
        return True
    name = section.strip("[] \n")
    if name.endswith(("dependencies", "dependency-groups", "packages", "extras_require")):
        return True
    return key in ("dependencies", "requires", "install_requires")


def _names(code: str, path: str) -> Iterator[str]:
    """Names that a line requires."""
    stripped = code.strip().removeprefix("- ").strip()
    quoted = [one or other for one, other in _QUOTED.findall(stripped)]
    candidates = [stripped.strip("\"'"), *(quoted if path.endswith((".toml", ".cfg")) else [])]
    for candidate in dict.fromkeys(candidates):
        if candidate.startswith("-"):
            continue  # an option of pip's
        match = _NAME.match(candidate.rpartition("::")[2])
        if match is not None:
            yield match[0]


def _where() -> Where:
    scope = Scope()
    return Where(scope, scope)


def _node(number: int, line: str) -> ast.expr:
    """A place that is the whole of a line."""
    start = len(line) - len(line.lstrip())
    start, end = len(line[:start].encode()), len(line.rstrip().encode())
    return ast.Constant(
        value=None,
        lineno=number,
        col_offset=start,
        end_lineno=number,
        end_col_offset=max(end, start),
    )

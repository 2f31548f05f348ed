"""The command `torchdevice doctor`: options in, output and exit code out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .._printing import print_out
from ..errors import TorchDeviceError
from ._findings import Severity
from ._output import lines, to_json, to_sarif
from ._project import Diagnosis, Selection, diagnose
from ._rules import RULES
from ._states import States, built_for_cuda
from ._verdict import Verdict

__all__ = ["execute"]

_MANY = 50
"""Files from which on a progress bar is worth its place."""


def execute(options: argparse.Namespace) -> int:
    """Carry the command out.

    Args:
        options: What argparse made of the command line.

    Returns:
        0 if all would run, 1 if something needs work, 130 if the user ended it.

    Raises:
        TorchDeviceError: If a path or the id of a rule does not exist.
    """
    paths = [Path(path) for path in options.paths]
    for path in paths:
        if not path.exists():
            raise TorchDeviceError(f"there is no file or folder {str(path)!r}: give one to read.")
    selection = Selection(_rules(options.select), _rules(options.ignore))
    states = States(options.target)
    try:
        diagnosis = diagnose(
            paths,
            states,
            target=options.target,
            exclude=options.exclude or (),
            selection=selection,
            # A Mac's torch never is.
            cuda_build=options.target == "cpu" and built_for_cuda(),
            progress=_progress,
        )
    except KeyboardInterrupt:
        return 130  # as shells say it
    if not diagnosis.examined:
        raise TorchDeviceError(
            f"there is no Python file in {', '.join(map(repr, options.paths))}: "
            "give a file, or a folder that holds some."
        )
    _print(diagnosis, options, states)
    failing = diagnosis.count(Severity.ERROR)
    if options.strict:
        failing += diagnosis.count(Severity.WARNING)
    return int(failing > 0 or diagnosis.verdict == Verdict.UNKNOWN)


def _rules(given: Sequence[str] | None) -> tuple[str, ...]:
    """Ids, or beginnings of ids, from options that may be repeated and may hold commas."""
    names = tuple(name.strip() for text in given or () for name in text.split(",") if name.strip())
    for name in names:
        if not any(rule.id.startswith(name) for rule in RULES):
            raise TorchDeviceError(f"no rule begins with {name!r}: docs/doctor.md lists them all.")
    return names


def _print(diagnosis: Diagnosis, options: argparse.Namespace, states: States) -> None:
    if states.without_torch:
        print(
            f"torchdevice: {states.without_torch}, so what becomes of its names is not said.",
            file=sys.stderr,
        )
    if options.format == "json":
        text = to_json(diagnosis, target=options.target)
    elif options.format == "sarif":
        text = to_sarif(diagnosis)
    else:
        least = Severity[options.level.upper()]
        if options.output is None and _print_rich(diagnosis, least):
            return
        text = "\n".join(
            "".join(piece for piece, _ in line).rstrip() for line in lines(diagnosis, least=least)
        )
    if options.output is None:
        print_out(text)
    else:
        try:
            Path(options.output).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise TorchDeviceError(
                f"cannot write {options.output!r} ({error.strerror}): give another --output."
            ) from None


def _print_rich(diagnosis: Diagnosis, least: Severity) -> bool:
    """Print in colours; False where there is no terminal, or rich is not installed."""
    if not sys.stdout.isatty():
        return False
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        return False
    console = Console(highlight=False)
    for line in lines(diagnosis, least=least):
        console.print(Text.assemble(*line), soft_wrap=True)
    return True


def _progress(files: Sequence[Path]) -> Iterable[Path]:
    """Go through files with a bar on stderr, where that is a terminal and they are many."""
    if len(files) < _MANY or not sys.stderr.isatty():
        return files
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError:
        return _counted(files)
    bar: Callable[..., Any] = track
    console = Console(stderr=True)
    return bar(files, "reading", console=console, transient=True)


def _counted(files: Sequence[Path]) -> Iterator[Path]:
    for number, path in enumerate(files, 1):
        if number % 20 == 0:
            print(f"\rreading {number:,} of {len(files):,}", end="", file=sys.stderr, flush=True)
        yield path
    print("\r" + " " * 40 + "\r", end="", file=sys.stderr, flush=True)

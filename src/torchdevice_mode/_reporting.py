"""Makes the report of this process from what it counted, and writes those that are asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from ._settings import Settings
from .errors import ReportError

if TYPE_CHECKING:
    from ._context import Context
    from ._ledger import Ledger
    from ._machine import Machine
    from ._report import Report

__all__ = ["make", "profile_of", "write_all"]


def make(
    ledger: Ledger, context: Context | None, settings: Settings, *, folder: str | None = None
) -> Report:
    """The report of what a ledger counted.

    Args:
        ledger: The ledger.
        context: The redirection that held last; None where there was none in this process.
        settings: What holds where there is no redirection.
        folder: Where the program began; by default the current folder.

    Returns:
        The report.
    """
    from ._report import collect

    entries = ledger.entries()
    target, reason = None, ""
    if context is not None:
        target, reason = str(context.target), context.target_reason
        settings = context.settings
    elif entries:
        # A program that only starts others has no target itself.
        target, reason = entries[0].site.given, "what the processes it started used"
    torch = sys.modules.get("torch")
    if folder is None:
        folder = ""
        with suppress(OSError):  # removed by now
            folder = str(Path.cwd())
    return collect(
        entries,
        target=target,
        target_reason=reason,
        settings=settings,
        accelerators=() if context is None else _accelerators(context.machine),
        versions={"torchdevice": __version__, "torch": str(getattr(torch, "__version__", ""))},
        program=_command(),
        folder=folder,
        since=ledger.began,
        unreported=ledger.unreported,
    )


def write_all(report: Report, paths: Iterable[str]) -> list[str]:
    """Write a report at the end of a program, whose exit code must stay what it is.

    Args:
        report: What to write.
        paths: Where.

    Returns:
        Those that were written; for each of the others a sentence is printed.
    """
    written = []
    for path in paths:
        try:
            report.write(path)
        except ReportError as error:
            _say(f"torchdevice: error: {error}")
        except Exception as error:  # a fault of ours, which the program must not suffer from
            _say(f"torchdevice: error: no report was written to {path!r}: {error!r}")
        else:
            written.append(path)
    return written


def profile_of(report: Report) -> str:
    """The times of the operators, as lines to print below the summary; empty without any."""
    from ._report import operators_as_text

    told = operators_as_text(report)
    return f"\ntorchdevice: time by operator\n\n{told}\n" if told else ""


def _say(text: str) -> None:
    with suppress(OSError, ValueError, AttributeError):  # closed by now
        print(text, file=sys.stderr)


def _command() -> list[str]:
    """The command line; of `python -m`, with the module's name, which `sys.argv` lacks."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    name = getattr(spec, "name", None)
    if not name:
        return list(sys.argv)
    return ["-m", str(name).removesuffix(".__main__"), *sys.argv[1:]]


def _accelerators(machine: Machine) -> list[str]:
    """The accelerators that torch can use, in words."""
    found = []
    for kind, count in machine.accelerators:
        notes = [_name(kind)] if kind not in machine.simulated else ["simulated on the CPU"]
        notes += [f"{count} devices"] if count != 1 else []
        notes = [note for note in notes if note]
        found.append(f"{kind} ({', '.join(notes)})" if notes else kind)
    return found


def _name(kind: str) -> str:
    """The device's own name, where torch tells one."""
    torch: Any = sys.modules["torch"]
    try:
        return str(getattr(torch, kind).get_device_name(0))
    except Exception:  # few kinds have such a function, and a device may have gone
        return ""

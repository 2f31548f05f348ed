"""What `torchdevice run` does when the program has ended."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._children import Family
from ._ledger import Ledger
from ._settings import Settings
from ._summary import render

if TYPE_CHECKING:
    from ._context import Context

__all__ = ["finish"]


def finish(
    contexts: list[Context | None],
    stream: Any,
    process: int,
    folder: str,
    *,
    settings: Settings,
    reports: Sequence[str],
) -> None:
    """Bring the ledgers together, write the reports, print the summary.

    Args:
        contexts: The redirection that began with torch's import; None in its place where it was
            refused, and empty where torch was not imported.
        stream: Where the summary is printed; None for nowhere.
        process: The process that the command began in.
        folder: The folder that it began in, against which paths are shown.
        settings: What the user chose.
        reports: The files to write.
    """
    # A forked child that ends by `sys.exit` comes here too.
    if os.getpid() != process:
        return
    context = contexts[0] if contexts else None
    ledger = context.ledger if context is not None else Ledger()
    Family(ledger, os.environ).finish()
    profile = ""
    if reports or settings.profile:
        from ._reporting import make, profile_of, write_all

        report = make(ledger, context, settings, folder=folder)
        reports = write_all(report, reports)
        profile = profile_of(report)
    entries = ledger.entries()
    if stream is None or (contexts and context is None):
        return  # refused on this platform, and a warning said so
    if not contexts and not entries:
        text = "torchdevice: nothing was redirected: the program did not import torch"
    else:
        # A program that only starts others has no target itself.
        target = context.target if context is not None else entries[0].site.given
        text = render(entries, target=str(target), folder=folder, unreported=ledger.unreported)
    text += profile
    for path in reports:
        shown = os.path.relpath(path, folder) if Path(path).is_relative_to(folder) else path
        text += f"\ntorchdevice: report written to {shown}"
    with suppress(OSError, ValueError):  # closed by now, or a full disk
        _print_at_end(text, stream)


def _print_at_end(text: str, stream: Any) -> None:
    """Print past the stream's buffer: what stayed there would give the process an exit code."""
    try:
        number = stream.fileno()
    except (AttributeError, OSError, ValueError):
        print(text, file=stream, flush=True)
        return
    stream.flush()
    rest = f"{text}\n".encode(stream.encoding or "utf-8", "backslashreplace")
    while rest:
        rest = rest[os.write(number, rest) :]

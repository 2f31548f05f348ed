"""Writing a report: the file's ending names the form, and no half file is left behind."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .._report_path import fault_of
from ..errors import ReportError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._model import Report

__all__ = ["write"]

_FORMS: dict[str, Callable[[Report], str]] = {
    ".html": lambda report: report.html(),
    ".json": lambda report: report.to_json(),
    ".txt": lambda report: report.text(),
}


def write(report: Report, path: str | os.PathLike[str]) -> None:
    """What `Report.write` does."""
    # Not `resolve`, which follows links: what is written must replace the link's target.
    full = Path(os.path.abspath(path))  # noqa: PTH100
    fault = fault_of(full)
    if fault:
        raise ReportError(f"{os.fspath(path)!r} {fault}")
    text = _FORMS[full.suffix.lower()](report)
    # A name of a file need not be text; what cannot be written is spelled out.
    data = text.encode("utf-8", "backslashreplace")
    try:
        _replace(Path(os.path.realpath(full)), data)
    except OSError as error:
        why = error.strerror or str(error)
        raise ReportError(
            f"{os.fspath(path)!r} cannot be written ({why}): name another file."
        ) from error


def _replace(path: Path, data: bytes) -> None:
    """Write beside the file, then put it in its place."""
    if path.exists() and not path.is_file():
        # A device or a pipe, such as /dev/stdout, is written into.
        path.write_bytes(data)
        return
    part = path.with_name(f".{path.name[:50]}.{os.getpid()}-{os.urandom(4).hex()}")
    try:
        part.write_bytes(data)
        part.replace(path)
    except BaseException:
        # Nobody reads half a report, and a full disk gets its space back.
        with suppress(OSError):
            part.unlink()
        raise

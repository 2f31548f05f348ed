"""The logger `torchdevice` and warnings that are said once, at the user's line."""

from __future__ import annotations

import logging
import os
import sys
import threading
import types
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from ._settings import LOG_LEVEL, SILENCE, Arguments, Environment, gather
from .errors import TorchDeviceWarning

__all__ = [
    "configure",
    "forget_warnings",
    "is_library_frame",
    "is_program_frame",
    "logger",
    "tell",
    "user_frame",
    "warn_once",
]

logger = logging.getLogger("torchdevice")

# Beside torch and this package: wrappers that torch's decorators put between it and the user, and
# safetensors, which is asked for tensors as torch is.
_OWN_PREFIXES = frozenset(
    {
        *("torchdevice_mode", "torchdevice", "torch", "safetensors"),
        *("typing_extensions", "contextlib", "functools"),
    }
)
_said: set[tuple[str, object]] = set()
_lock = threading.Lock()


def configure(level: str | None = None) -> None:
    """Set the logger's level from the argument or from `TORCHDEVICE_LOG_LEVEL`.

    Args:
        level: DEBUG, INFO, WARNING or ERROR in any case; None reads the environment.

    Raises:
        SettingsError: If the level is none of these.
    """
    sources = [Arguments({LOG_LEVEL.name: level}), Environment(os.environ)]
    logger.setLevel(gather([LOG_LEVEL], sources)[LOG_LEVEL.name].value)
    if not logger.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("torchdevice: %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False


def is_library_frame(frame: types.FrameType) -> bool:
    """Whether the frame runs torch's code or ours, told by its module's name."""
    name = frame.f_globals.get("__name__")
    return isinstance(name, str) and _is_library(name)


@cache
def _is_library(module: str) -> bool:
    return module.partition(".")[0] in _OWN_PREFIXES


def user_frame(frame: types.FrameType | None) -> types.FrameType | None:
    """The frame of the program that led to this one.

    Args:
        frame: Where to begin.

    Returns:
        The innermost frame, outward, that is neither torch's nor ours; if that runs an installed
        package, the innermost frame of the user's own files, where there is one.
    """
    while frame is not None and is_library_frame(frame):
        frame = frame.f_back
    if frame is None or not _is_foreign(frame):
        return frame
    outer = frame.f_back
    while outer is not None and not is_program_frame(outer):
        outer = outer.f_back
    return outer or frame


def is_program_frame(frame: types.FrameType) -> bool:
    """Whether the frame runs the user's own files: no installed package, nor torch or ours."""
    return not is_library_frame(frame) and not _is_foreign(frame)


def _is_foreign(frame: types.FrameType) -> bool:
    """Whether the frame runs lines that nobody migrates: installed, or generated for a class."""
    file = frame.f_code.co_filename
    if file.startswith(_GENERATED):
        # `python -c` runs `<string>` as well, in a module without a file.
        return "__file__" in frame.f_globals
    return _is_installed(file)


@cache
def _is_installed(file: str) -> bool:
    """Whether a file belongs to Python or to an installed package."""
    return file.startswith(_INSTALLED) or not _PACKAGES.isdisjoint(Path(file).parts)


_PACKAGES = frozenset({"site-packages", "dist-packages"})
_GENERATED = ("<string>", "<attrs generated ")  # methods of data classes
_INSTALLED = (
    "<frozen ",
    # `python -m torchdevice`, where the package is not installed but stands beside its sources.
    str(Path(__file__).parent) + os.sep,
    str(Path(__file__).parent.with_name("torchdevice")) + os.sep,
    str(Path(os.__file__).parent) + os.sep,
    str(Path(sys.executable or os.__file__).parent)
    + os.sep,  # scripts such as `torchdevice` itself
)


def warn_once(slug: str, message: str, *, key: object = None, place: Any = None) -> None:
    """Warn at the user's line, once for each slug and key.

    Args:
        slug: Stable name; `TORCHDEVICE_SILENCE` lists slugs that are not said.
        message: One sentence that names what was given and what to do.
        key: What "once" is counted by, for example a call site; None for once a process.
        place: A frame, or what has its `f_code` and `f_lineno`; None finds the user's.
    """
    with _lock:
        if (slug, key) in _said:
            return
        _said.add((slug, key))
    if slug in gather([SILENCE], [Environment(os.environ)])[SILENCE.name].value:
        return
    frame = user_frame(sys._getframe(1)) if place is None else place
    warning = TorchDeviceWarning(f"{message} [{slug}]", slug)
    if frame is None:
        warnings.warn(warning, stacklevel=2)
        return
    variables = getattr(frame, "f_globals", {})
    warnings.warn_explicit(
        warning,
        TorchDeviceWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=variables.get("__name__"),
        registry=variables.setdefault("__warningregistry__", {}),
    )


def tell(slug: str, message: str) -> None:
    """Warn once where no exception may come out: when a process starts, ends, or writes a file.

    Where warnings are errors, the warning is a line on stderr instead.

    Args:
        slug: As of `warn_once`.
        message: As of `warn_once`.
    """
    try:
        warn_once(slug, message)
    except TorchDeviceWarning as warning:
        if sys.stderr is not None:
            print(f"torchdevice: {warning}", file=sys.stderr)


def forget_warnings() -> None:
    """Say every warning anew; a new session of redirection begins with this."""
    with _lock:
        _said.clear()

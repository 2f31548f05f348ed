"""The logger `torchdevice` and warnings that are said once, at the user's line."""

from __future__ import annotations

import logging
import os
import sys
import threading
import types
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._settings import LOG_LEVEL, SILENCE, Arguments, Environment, gather
from .errors import TorchDeviceWarning

__all__ = [
    "SLUGS",
    "configure",
    "forget_warnings",
    "is_library_frame",
    "is_program_frame",
    "log_at",
    "logger",
    "tell",
    "user_frame",
    "warn_once",
]

logger = logging.getLogger("torchdevice")

SLUGS = frozenset(
    {
        "autocast-dtype",
        "autocast-early",
        "autocast-slow-dtype",
        "compile-graphs",
        "compile-mixed-devices",
        "compressed-sparse",
        "fallback-call",
        "fallback-operator",
        "float64-downcast",
        "kept-by-cpu",
        "ledger-lost",
        "memory-fraction",
        "module-left-behind",
        "repeated-adoption",
        "rng-state",
        "sent-by-copy",
        "shared-on-cpu",
        "simulated-compile",
        "start-up",
        "substitute-8bit",
        "unknown-slug",
        "unknown-variable",
        "untested",
        "verify-difference",
    }
)
"""Names of the warnings; docs/messages.md has a section for each."""

# Beside torch and this package: wrappers that torch's decorators put between it and the user, and
# safetensors, which is asked for tensors as torch is.
_OWN_PREFIXES = frozenset(
    {
        *("torchdevice_mode", "torchdevice", "torch", "safetensors"),
        *("typing_extensions", "contextlib", "functools"),
    }
)
# By slug and key: None for what was said, or the filters that ignored it, and their number.
_said: dict[tuple[str, object], tuple[()] | tuple[list[Any], int] | None] = {}
_lock = threading.Lock()


if TYPE_CHECKING:
    _Handler = logging.StreamHandler[Any]
else:
    _Handler = logging.StreamHandler  # without parameters at run time before Python 3.11


class _StandIn(_Handler):
    """Prints lines on stderr for as long as the program has configured no logging itself.

    So it need not be known whether the program will: as soon as it has, this one is silent.
    """

    def emit(self, record: logging.LogRecord) -> None:
        others = [*logger.handlers, *(logging.getLogger().handlers if logger.propagate else ())]
        if sys.is_finalizing() or sys.stderr is None:
            return
        if all(handler is self for handler in others):
            self.stream = sys.stderr  # the one of now
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say nothing: stderr may be closed, when the process ends above all."""


_level_given: object = None


def configure(level: str | None = None) -> None:
    """Set the logger's level, as far as the program has not, and have it print somewhere.

    Args:
        level: DEBUG, INFO, WARNING or ERROR in any case; None reads `TORCHDEVICE_LOG_LEVEL`.

    Raises:
        SettingsError: If the level is none of these.
    """
    global _level_given
    sources = [Arguments({LOG_LEVEL.name: level}), Environment(os.environ)]
    found = gather([LOG_LEVEL], sources)[LOG_LEVEL.name]
    if found != _level_given:
        # A level that the program set holds, but for one that its user asks for.
        if found.origin != "default" or _level_given or logger.level == logging.NOTSET:
            logger.setLevel(found.value)
        _level_given = found
    if not any(isinstance(handler, _StandIn) for handler in logger.handlers):
        handler = _StandIn()
        handler.setFormatter(logging.Formatter("torchdevice: %(message)s"))
        logger.addHandler(handler)
    _apply_refused_options()
    for slug in _silenced() - SLUGS:
        from difflib import get_close_matches

        near = get_close_matches(slug, SLUGS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "docs/messages.md lists them."
        tell("unknown-slug", f"There is no message {slug!r} to silence: {hint}", key=slug)


def log_at(place: types.FrameType | Any, message: str) -> None:
    """Log at INFO as if the program's own line did, so that `%(filename)s` is its file.

    Args:
        place: A frame, or what has its `f_code` and `f_lineno`.
        message: What follows the file and the line.
    """
    file, line = place.f_code.co_filename, place.f_lineno
    text = f"{file}:{line}: {message}"
    name, function = logger.name, place.f_code.co_name
    logger.handle(logger.makeRecord(name, logging.INFO, file, line, text, (), None, function))


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
    return outer or (None if _is_command(frame) else frame)


def _is_command(frame: types.FrameType) -> bool:
    """Whether the frame runs the command itself, which has no line that its user knows."""
    file = frame.f_code.co_filename
    return frame.f_globals.get("__name__") == "__main__" and (
        file.startswith(_OWN_FILES) or Path(file).stem in _COMMANDS
    )


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
# `python -m torchdevice`, where the package is not installed but stands beside its sources.
_OWN_FILES = (
    str(Path(__file__).parent) + os.sep,
    str(Path(__file__).parent.with_name("torchdevice")) + os.sep,
)
_COMMANDS = frozenset({"torchdevice", "torchdevice-script"})
_INSTALLED = (
    "<frozen ",
    *_OWN_FILES,
    str(Path(os.__file__).parent) + os.sep,
    str(Path(sys.executable or os.__file__).parent)
    + os.sep,  # scripts such as `torchdevice` itself
)


def warn_once(slug: str, message: str, *, key: object = None, place: Any = None) -> None:
    """Warn at the user's line, once for each slug and key, as Python's filters have it.

    What a filter ignores is said when no filter does, and what one makes an error is one always.

    Args:
        slug: Stable name, one of `SLUGS`; `TORCHDEVICE_SILENCE` lists those that are not said.
        message: One sentence that names what was given and what to do.
        key: What "once" is counted by, for example a call site; None for once a process.
        place: A frame, or what has its `f_code` and `f_lineno`; None finds the user's.
    """
    filters = _filters()
    with _lock:
        before = _said.get((slug, key), ())
        if before is None or (before and before[0] is filters and before[1] == len(filters)):
            return
        _said[slug, key] = None
    if slug in _silenced() or sys.is_finalizing():
        return
    frame = user_frame(sys._getframe(1)) if place is None else place
    warning = TorchDeviceWarning(f"{message} [{slug}]", slug)
    variables = getattr(frame, "f_globals", {})
    file, line = ("torchdevice", 1) if frame is None else (frame.f_code.co_filename, frame.f_lineno)
    module = variables.get("__name__") or file.removesuffix(".py")
    action = _action(filters, str(warning), module, line)
    if action in ("ignore", "error"):
        with _lock:
            _said[slug, key] = (filters, len(filters)) if action == "ignore" else ()
    registry = variables.setdefault("__warningregistry__", {})
    warnings.warn_explicit(
        warning, TorchDeviceWarning, file, line, module=module, registry=registry
    )


def _silenced() -> set[str]:
    return set(gather([SILENCE], [Environment(os.environ)])[SILENCE.name].value)


def _filters() -> list[Any]:
    """Python's filters for warnings; from 3.14 on a task may have its own."""
    own = getattr(warnings, "_get_filters", None)
    return warnings.filters if own is None else own()  # type: ignore[return-value]


def _action(filters: list[Any], text: str, module: str, line: int) -> str:
    """What Python's filters have done with a warning."""
    for action, message, category, of_module, of_line in filters:
        if (
            issubclass(TorchDeviceWarning, category)
            and _matches(message, text)
            and _matches(of_module, module)
            and of_line in (0, line)
        ):
            return str(action)
    return "default"


def _matches(pattern: Any, text: str) -> bool:
    if pattern is None or isinstance(pattern, str):
        return pattern is None or pattern == text
    return pattern.match(text) is not None


_options_applied = False


def _apply_refused_options() -> None:
    """Do what `-W error::torchdevice.TorchDeviceWarning` says.

    Python reads its options before it finds installed packages, and refuses their categories.
    """
    global _options_applied
    if _options_applied:
        return
    _options_applied = True
    ours = [option for option in sys.warnoptions if ":torchdevice" in option]
    if ours and not any(issubclass(one[2], TorchDeviceWarning) for one in _filters()):
        for option in ours:
            with suppress(Exception):  # what is wrong, Python has told
                warnings._setoption(option)  # type: ignore[attr-defined]


def tell(slug: str, message: str, *, key: object = None, place: Any = None) -> None:
    """Warn once where no exception may come out: when a process starts, ends, or writes a file.

    Where warnings are errors, the warning is a line on stderr instead.

    Args:
        slug: As of `warn_once`, like the next three.
        message: The sentence.
        key: What "once" is counted by.
        place: Where.
    """
    try:
        warn_once(slug, message, key=key, place=place)
    except TorchDeviceWarning as warning:
        if sys.stderr is not None:
            print(f"torchdevice: {warning}", file=sys.stderr)


def forget_warnings() -> None:
    """Say every warning anew."""
    with _lock:
        _said.clear()

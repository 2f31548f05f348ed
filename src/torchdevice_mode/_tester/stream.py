"""Lines of JSON by which a process that runs tests tells what happens there, as it happens.

Each line is written by one call of the system, past all buffers, so that it is there whatever
ends the process next. `fold` makes results of them.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = [
    "STREAM",
    "TASK",
    "Error",
    "Folded",
    "Result",
    "Task",
    "Writer",
    "cut",
    "describe",
    "described",
    "fold",
]

STREAM = "TORCHDEVICE_TEST_STREAM"
"""Variable that names the file to write lines to."""
TASK = "TORCHDEVICE_TEST_TASK"
"""Variable that names the file that holds what is to be done, as JSON: the fields of `Task`.

It is no variable itself, as those are short, and a file of tests may have thousands to skip.
"""

_PACKAGE = __name__.partition(".")[0]
_LONGEST_MESSAGE = 2_000
_LONGEST_TEXT = 12_000


@dataclass(frozen=True, slots=True)
class Task:
    """What a process is to do.

    Attributes:
        unit: The file (or, for unittest, the name) whose tests to run; empty to list units.
        only: Tests to run; None for all.
        skip: Tests not to run, since they were before.
        name: Tells this process from others that run at the same time, in names of folders.
    """

    unit: str = ""
    only: frozenset[str] | None = None
    skip: frozenset[str] = frozenset()
    name: str = ""

    @classmethod
    def from_environment(cls) -> Task:
        """What this process is to do."""
        return cls.read(Path(os.environ[TASK]))

    @classmethod
    def read(cls, file: Path) -> Task:
        """What `write` wrote."""
        told = json.loads(file.read_text(encoding="utf-8"))
        only = None if told["only"] is None else frozenset(told["only"])
        return cls(told["unit"], only, frozenset(told["skip"]), told["name"])

    def write(self, file: Path) -> None:
        """Write the file that the variable names."""
        told = {
            "unit": self.unit,
            "only": None if self.only is None else list(self.only),
            "skip": list(self.skip),
            "name": self.name,
        }
        file.write_text(json.dumps(told), encoding="utf-8")

    def leaves_out(self, test: str) -> bool:
        """Whether a test of the unit is not to run."""
        return test in self.skip or (self.only is not None and test not in self.only)


class Writer:
    """Writes lines to the file that the environment names; in forked children, nothing."""

    def __init__(self) -> None:
        self._process = os.getpid()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._file = os.open(os.environ[STREAM], flags, 0o600)

    def put(self, kind: str, **fields: Any) -> None:
        """Write one line.

        Args:
            kind: What it tells.
            **fields: What JSON can say.
        """
        if os.getpid() == self._process:
            os.write(self._file, json.dumps({"kind": kind, **fields}).encode() + b"\n")


@dataclass(slots=True)
class Error:
    """Why a test failed.

    Attributes:
        type: Name of the exception's class, with its module where that is not `builtins`.
        message: What the exception says.
        place: The innermost frame: `file:line in function`; empty where it is not known.
        text: The traceback, as the test runner shows it.
    """

    type: str = ""
    message: str = ""
    place: str = ""
    text: str = ""

    @classmethod
    def read(cls, told: dict[str, str] | None) -> Error | None:
        """What `describe` gave, or None."""
        return None if told is None else cls(**told)


@dataclass(slots=True)
class Result:
    """What became of one test.

    Attributes:
        outcome: `passed`, `xfailed`, `xpassed`, `skipped`, `failed`, `error` (in what prepares
            the test, cleans up after it, or collects it), `crashed`, `timeout` or `not run`.
        seconds: How long it took.
        error: Why it failed.
        reason: Why it was skipped.
        target: What a command line names it by, if that is not its name here.
        again: Outcomes of repeated runs.
    """

    outcome: str
    seconds: float = 0.0
    error: Error | None = None
    reason: str = ""
    target: str = ""
    again: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether it ran, or was to, and went wrong."""
        return self.outcome in ("failed", "error", "crashed", "timeout")

    @property
    def ran(self) -> bool:
        """Whether it ran at all."""
        return self.outcome not in ("skipped", "not run")


@dataclass(slots=True)
class Folded:
    """What the lines of one process say.

    Attributes:
        results: By test.
        collected: Tests that were to run, in their order; None where it did not come so far.
        running: The test that ran at the end, if the process ended in one.
        collecting: What was being collected then.
        ended: Whether the session came to its end.
        note: What ended it early.
        events: What was redirected, by kind.
        told: Further lines, by kind.
    """

    results: dict[str, Result] = field(default_factory=dict)
    collected: list[str] | None = None
    running: str = ""
    collecting: str = ""
    ended: bool = False
    note: str = ""
    events: dict[str, int] = field(default_factory=dict)
    told: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


# Of several outcomes of one test, as of its phases and its parts, the last in this row counts.
_RANKS = ("passed", "xpassed", "xfailed", "skipped", "failed", "error")


def fold(path: Path) -> Folded:
    """Read what a process has told.

    Args:
        path: The file; absent where the process did not come so far.

    Returns:
        What it says; lines cut off by the end of the process are passed over.
    """
    folded = Folded()
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return folded
    for line in text.splitlines():
        try:
            told = json.loads(line)
            kind = told.pop("kind")
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        _take(folded, kind, told)
    return folded


def _take(folded: Folded, kind: str, told: dict[str, Any]) -> None:
    if kind == "start":
        folded.running = told["test"]
    elif kind == "finish":
        folded.running = ""
    elif kind == "result":
        _merge(folded.results, told)
    elif kind == "collecting":
        folded.collecting = told["what"]
    elif kind == "collected":
        folded.collected, folded.collecting = told["tests"], ""
    elif kind == "end":
        folded.ended, folded.events = True, told.get("events", {})
    elif kind == "note":
        folded.note = told["text"]
    else:
        folded.told.setdefault(kind, []).append(told)


def _merge(results: dict[str, Result], told: dict[str, Any]) -> None:
    outcome = told["outcome"]
    result = results.setdefault(told["test"], Result("passed"))
    result.seconds += told.get("seconds", 0.0)
    result.target = told.get("target", "") or result.target
    if outcome == "again":
        # A plugin that repeats failed tests: what comes next counts.
        result.outcome, result.error, result.reason = "passed", None, ""
    elif _RANKS.index(outcome) > _RANKS.index(result.outcome):
        result.outcome = outcome
        result.error = Error.read(told.get("error"))
        result.reason = told.get("reason", "")


def describe(error: BaseException, *, text: str = "") -> dict[str, str]:
    """An exception as the fields of `Error`.

    Args:
        error: The exception.
        text: Its traceback as the test runner shows it; by default as Python does.

    Returns:
        What `Error.read` takes.
    """
    error = _of_doctest(error)
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "__main__"):
        name = f"{kind.__module__}.{name}"
    if not text:
        text = "".join(traceback.format_exception(kind, error, error.__traceback__))
    return {
        "type": name,
        "message": cut(_said(error), _LONGEST_MESSAGE),
        "place": _place(error),
        "text": cut(text, _LONGEST_TEXT),
    }


def described(text: str) -> dict[str, str]:
    """The fields of `Error` where there is no exception, but what the test runner says of it."""
    message = text.strip().rpartition("\n")[2]
    return {"message": cut(message, _LONGEST_MESSAGE), "text": cut(text, _LONGEST_TEXT)}


def _of_doctest(error: BaseException) -> BaseException:
    """What an example of a doctest raised, where the error only holds that."""
    held: Any = error
    if type(error).__name__ == "MultipleDoctestFailures":  # pytest's
        held = error.failures[0]  # type: ignore[attr-defined]
    if type(held).__module__ == "doctest" and hasattr(held, "exc_info"):
        held = held.exc_info[1]
    return held if isinstance(held, BaseException) else error


def _said(error: BaseException) -> str:
    if type(error).__module__ == "doctest":
        # Its own words name the example, and not what was wrong with it.
        told: Any = error
        want, got = (text.strip() or "nothing" for text in (told.example.want, told.got))
        return f"expected {want}, got {got}"
    try:
        return str(error)
    except Exception as other:  # a class of the program, which may do anything
        return f"<str() raised {type(other).__name__}>"


def _place(error: BaseException) -> str:
    if type(error).__module__ == "doctest":
        told: Any = error
        line = (told.test.lineno or 0) + told.example.lineno + 1
        return f"{told.test.filename}:{line} in {told.test.name}"
    place, step = "", error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        if not (place and _only_passes_on(step.tb_frame)):
            place = f"{code.co_filename}:{step.tb_lineno} in {code.co_name}"
        step = step.tb_next
    return place


def _only_passes_on(frame: FrameType) -> bool:
    """Whether a frame is of no interest to who looks for the place of an error."""
    # This package stands between a program and torch, and passes errors of both on.
    is_own = str(frame.f_globals.get("__name__")).startswith(f"{_PACKAGE}.")
    # Assertions say so of themselves, to unittest and to pytest.
    is_assertion = "__unittest" in frame.f_globals
    return is_own or is_assertion or frame.f_locals.get("__tracebackhide__") is True


def cut(text: str, most: int) -> str:
    """A text without its middle, where it is long: errors stand at the end, their call at first."""
    if len(text) <= most:
        return text
    left_out = f"[... {len(text) - most:,} characters ...]"
    return f"{text[: most // 4]}\n{left_out}\n{text[-3 * most // 4 :]}"


def written(records: Iterable[dict[str, Any]]) -> str:
    """Lines as `Writer` writes them, for tests of what reads them."""
    return "".join(json.dumps(record) + "\n" for record in records)

"""`python -m unittest` that lists the files of a suite, or runs one and tells what happens.

Run as `python -m` in place of `unittest`, with the same arguments. A unit is a file where tests are
discovered, and a name where names are given.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import unittest
from collections.abc import Iterator, Sequence
from time import perf_counter
from types import ModuleType, TracebackType
from typing import Any

from .events import events
from .stream import Task, Writer, describe

_writer = Writer()
_task = Task.from_environment()
_ExcInfo = tuple[type[BaseException], BaseException, TracebackType]

if hasattr(signal, "SIGUSR2"):
    faulthandler.register(signal.SIGUSR2, file=os.dup(2), all_threads=True)
if not faulthandler.is_enabled():
    faulthandler.enable(os.dup(2))


class Loader(unittest.TestLoader):
    """Finds the tests of one unit; or lists units, without importing what it finds."""

    def _match_path(self, path: str, full_path: str, pattern: str) -> bool:
        # What unittest says is to be overridden for a choice of files of one's own.
        parent: Any = super()
        if not parent._match_path(path, full_path, pattern):
            return False
        if _task.unit:
            return os.path.realpath(full_path) == _task.unit
        _writer.put("unit", name=os.path.realpath(full_path))
        return False

    def loadTestsFromNames(  # noqa: N802 - unittest's own name
        self, names: Sequence[str], module: ModuleType | None = None
    ) -> unittest.TestSuite:
        if _task.unit:
            return super().loadTestsFromNames([n for n in names if n == _task.unit], module)
        for name in names:
            _writer.put("unit", name=name)
        return unittest.TestSuite()


class Recorded(unittest.TextTestResult):
    """The result as unittest prints it, told as it comes."""

    _began = 0.0

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        self._began = perf_counter()
        _writer.put("start", test=name_of(test))
        super().startTest(test)

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().stopTest(test)
        if isinstance(sys.exc_info()[1], KeyboardInterrupt):
            return  # on its way out, past what unittest makes of an error: the process ends in it
        self._tell(test, "passed", seconds=perf_counter() - self._began)
        _writer.put("finish", test=name_of(test))

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addError(test, err)
        self._tell(test, "error" if is_stand_in(test) else "failed", err)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addFailure(test, err)
        self._tell(test, "failed", err)

    def addSubTest(  # noqa: N802
        self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any
    ) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._tell(test, "failed", err)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        super().addSkip(test, reason)
        self._tell(test, "skipped", reason=reason)

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addExpectedFailure(test, err)
        self._tell(test, "xfailed")

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().addUnexpectedSuccess(test)
        error = {"type": "UnexpectedSuccess", "message": "it was expected to fail, and passed"}
        _writer.put("result", test=name_of(test), outcome="failed", error=error)

    def _tell(
        self, test: unittest.TestCase, outcome: str, err: _ExcInfo | None = None, **fields: Any
    ) -> None:
        if err is not None:
            # With what the test printed, where unittest holds that back.
            own: Any = self
            fields["error"] = describe(err[1], text=own._exc_info_to_string(err, test))
        if is_stand_in(test):
            fields["target"] = "file"
            if err is not None and isinstance(err[1], ImportError):
                # Its message has the traceback of the import, whose last line is the error.
                last = str(err[1]).strip().rpartition("\n")[2]
                kind, _, message = last.partition(": ")
                fields["error"] |= {"type": kind, "message": message} if message else {}
        _writer.put("result", test=name_of(test), outcome=outcome, **fields)


class Runner(unittest.TextTestRunner):
    """Runs what is to run of the tests found."""

    resultclass = Recorded  # type: ignore[assignment]

    def run(self, test: Any) -> unittest.TextTestResult:
        self.failfast = False  # results of all tests are compared
        tests = [one for one in flat(test) if not _task.leaves_out(name_of(one))]
        _writer.put("collected", tests=[name_of(one) for one in tests])
        return super().run(unittest.TestSuite(tests))


def flat(suite: Any) -> Iterator[unittest.TestCase]:
    """The tests of a suite, in order."""
    if isinstance(suite, unittest.TestCase):
        yield suite
        return
    for one in suite:
        yield from flat(one)


def is_stand_in(test: object) -> bool:
    """Whether unittest puts this in place of what could not be imported or prepared."""
    return type(test).__module__.startswith("unittest.")


def name_of(test: Any) -> str:
    """The name of a test, by which it can be asked for."""
    name = str(test.id())
    return name.removeprefix("unittest.loader._FailedTest.") if is_stand_in(test) else name


def main() -> int:
    """Do what the task says, with the arguments of the process."""
    _writer.put("session", root=os.getcwd(), ini="", words=[])  # noqa: PTH109
    arguments = ["python -m unittest", *sys.argv[1:]]
    # `exit` of the program's own, so that the end is told first.
    program = unittest.main(None, None, arguments, Runner, Loader(), exit=False)
    _writer.put("end", events=events())
    return int(not program.result.wasSuccessful())


if __name__ == "__main__":
    sys.exit(main())

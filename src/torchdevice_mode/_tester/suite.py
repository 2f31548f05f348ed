"""The suite to run: which test runner, with which arguments, and the commands of each run."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from .._run import Program
from .._settings import OF_RUN, SETTINGS
from .._variables import ACTIVATE, FOLDER
from ..errors import TorchDeviceError
from .stream import STREAM, TASK

__all__ = ["PLAIN", "Run", "Suite", "SuiteError", "options_of"]

PLAIN = "plain"
_OF_THE_WHOLE = ("simulate", "quiet", "report")
_PACKAGE = __name__.partition(".")[0]
_RECORDER = f"{_PACKAGE}._tester.recorder"
_UNITTEST = f"{_PACKAGE}._tester.unittest_main"


class SuiteError(TorchDeviceError):
    """The suite cannot be run."""


@dataclass(frozen=True, slots=True)
class Run:
    """One of the runs that are compared.

    Attributes:
        name: `plain`, `redirected` or `simulated`.
        options: Of `torchdevice run`; None for plain torch.
    """

    name: str
    options: tuple[str, ...] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether torch is left as it is."""
        return self.options is None

    def command(self, words: Sequence[str]) -> list[str]:
        """The command that runs `python words` this way."""
        if self.options is None:
            return [sys.executable, *words]
        return [sys.executable, "-m", _PACKAGE, "run", "--quiet", *self.options, *words]

    def shown(self, words: Sequence[str]) -> list[str]:
        """The same, as a user would type it."""
        if self.options is None:
            return ["python", *words]
        return ["torchdevice", "run", *self.options, *words]

    def environ(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The environment of its processes."""
        variables = {ACTIVATE, FOLDER}
        if self.options is None:
            variables |= {row.variable for row in SETTINGS}
        else:
            variables |= {row.variable for row in OF_RUN if row.name in _OF_THE_WHOLE}
        return {name: value for name, value in environ.items() if name not in variables}


def options_of(given: Mapping[str, object]) -> tuple[str, ...]:
    """Options of `torchdevice run` that give it the settings that another command was given.

    Args:
        given: Values by name of the setting; None for what was not given.

    Returns:
        The options, without those for the run as a whole.
    """
    options = []
    for row in SETTINGS:
        value = given.get(row.name)
        if value is None or row.name in _OF_THE_WHOLE:
            continue
        if isinstance(value, bool):
            options.append(row.flag if value else f"--no-{row.flag[2:]}")
        else:
            options += [f"{row.flag}={v}" for v in (value if isinstance(value, list) else [value])]
    return tuple(options)


@dataclass(frozen=True, slots=True)
class Suite:
    """What runs the tests.

    Attributes:
        runner: `pytest` or `unittest`.
        arguments: Its own, as given.
        words: Those of them that name files and tests; known once units are listed.
        added: What to add to them, to repeat a test as it ran here; known then, too.
    """

    runner: str
    arguments: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    @classmethod
    def read(cls, program: Program | None) -> Suite:
        """Read what follows `--` on the command line.

        Args:
            program: That; None where nothing does.

        Returns:
            The suite.

        Raises:
            SuiteError: If it is no test runner that is known, or that is not installed.
        """
        suite = _named(program)
        if suite.runner == "pytest" and find_spec("pytest") is None:
            raise SuiteError(
                f"pytest is not installed for {sys.executable}: install it with pip, or give "
                f"-- unittest for a suite that needs no pytest."
            )
        return suite

    @property
    def shown(self) -> list[str]:
        """As a user would type it."""
        return [self.runner, *self.arguments]

    def command(self, run: Run) -> list[str]:
        """The command for one process."""
        if self.runner == "pytest":
            return run.command(["-m", "pytest", "-p", _RECORDER, *self.arguments])
        return run.command(["-m", _UNITTEST, *self.arguments])

    def environ(
        self, run: Run, task: Path, stream: Path, environ: Mapping[str, str]
    ) -> dict[str, str]:
        """The environment for it, whose task and lines are in these files."""
        return {**run.environ(environ), STREAM: str(stream), TASK: str(task)}

    def repeats(self, run: Run, test: str, *, unit: str, root: str) -> list[str]:
        """The command by which a user repeats one test.

        Args:
            run: The way it ran.
            test: Its name.
            unit: The file or name that it belongs to.
            root: The folder that names of tests begin at.

        Returns:
            The command, from the folder where `torchdevice test` was started.
        """
        if self.runner == "unittest":
            return run.shown(["-m", "unittest", *self._words_of_unittest(test, unit)])
        path, separator, inside = test.partition("::")
        # The file as it is seen from here; the rest of the name as it is.
        place = _seen_from_here(Path(root, path))
        return run.shown(
            ["-m", "pytest", *self._options(), *self.added, place + separator + inside]
        )

    def _words_of_unittest(self, test: str, unit: str) -> list[str]:
        is_found = os.path.isabs(unit)  # noqa: PTH117 - text here, found by discovery
        if test.endswith(")"):
            # `tearDownClass (tests.test_a.A)` and its like, which nobody can ask for.
            test = test.rpartition("(")[2][:-1]
        if not is_found:
            return [test]
        words = list(self.arguments) or ["discover"]
        while "-k" in words:
            # One more would add tests, and not choose from them.
            position = words.index("-k")
            del words[position : position + 2]
        return [*words, "-k", f"{Path(test).stem}." if test.endswith(".py") else test]

    def _options(self) -> list[str]:
        """The arguments but for those that name files: the last of equal words, most likely."""
        options = list(self.arguments)
        for word in reversed(self.words):
            for position in range(len(options) - 1, -1, -1):
                if options[position] == word:
                    del options[position]
                    break
        return [option for option in options if option != "--"]


def _seen_from_here(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _named(program: Program | None) -> Suite:
    if program is None:
        return Suite("pytest")
    name, arguments = program.name, program.arguments
    is_python = program.kind == "script" and Path(name).name.startswith("python")
    if is_python and arguments[:1] == ("-m",):
        name, arguments = "".join(arguments[1:2]), arguments[2:]
    if program.kind in ("script", "module") and name in ("pytest", "py.test", "unittest"):
        return Suite("unittest" if name == "unittest" else "pytest", arguments)
    if program.kind == "script" and Path(name.partition("::")[0]).exists():
        return Suite("pytest", (name, *arguments))
    raise SuiteError(
        f"{name!r} is neither a runner of tests nor a file or folder: give -- pytest ARGUMENTS or "
        f"-- unittest ARGUMENTS."
    )

"""The command `torchdevice`: its options, and what each of its commands begins."""

from __future__ import annotations

import argparse
import atexit
import json
import os
import sys
from argparse import BooleanOptionalAction
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import __version__
from ._children import Exported, Family, new_folder, variables_for
from ._command_settings import choose, with_place
from ._end_of_run import finish
from ._imports import when_imported
from ._ledger import Ledger
from ._log import configure
from ._packages import announce_missing, before_torch
from ._printing import print_out
from ._run import Program, current_folder, folder_of, prepare, run
from ._settings import REPORT, SETTINGS, Found, RunSettings, Setting, Settings
from ._usage import Parser, no_command, no_program, unknown_words
from ._variables import FOLDER
from .errors import TorchDeviceError

if TYPE_CHECKING:
    from ._context import Context

__all__ = ["main"]


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a command: its name and what argparse is told of it."""

    name: str
    told: dict[str, Any]

    @property
    def takes_value(self) -> bool:
        return self.told.get("action") in (None, "append")


def _option(name: str, **told: Any) -> Option:
    return Option(name, told)


def _of_setting(row: Setting) -> Option:
    """The option that gives a setting, whose value is checked with those of other places."""
    if not row.metavar:
        return _option(row.flag, dest=row.name, action=BooleanOptionalAction, help=row.help)
    action = {"action": "append"} if row.repeats else {}
    return _option(row.flag, dest=row.name, metavar=row.metavar, help=row.help, **action)


_OF_SETTINGS = tuple(_of_setting(row) for row in SETTINGS)
_RUN = _OF_SETTINGS
_INFO = (*_OF_SETTINGS, _option("--json", action="store_true", help="print JSON"))
_GAP = (
    _option(
        "--torch-module", metavar="MODULE", help='only this module, such as "torch.cuda.memory"'
    ),
    _option("--json", action="store_true", help="print JSON"),
    _option("--markdown", action="store_true", help="print the page of docs"),
)
_DOCTOR = (
    _option("paths", nargs="+", metavar="PATH", help="a program, a notebook or a folder"),
    _option(
        "--target",
        choices=("mps", "cpu", "cuda"),
        default="mps",
        help="the device that it is to run on (default: mps, which has the most limits)",
    ),
    _option("--format", choices=("text", "json", "sarif"), default="text"),
    _option("--output", metavar="FILE", help="write to FILE instead of printing"),
    _option("--strict", action="store_true", help="exit code 1 for warnings, too"),
    _option(
        "--level",
        choices=("note", "warning", "error"),
        default="note",
        help="show findings from this one on, as text; all are counted (default: note)",
    ),
    _option(
        "--exclude",
        metavar="GLOB",
        action="append",
        help="pass over files and folders of this name, or at this path below PATH, besides "
        ".git, .venv, node_modules, build and their like; can be repeated",
    ),
    _option(
        "--select",
        metavar="RULE",
        action="append",
        help="only these rules, by their ids or how these begin; can be repeated",
    ),
    _option(
        "--ignore",
        metavar="RULE",
        action="append",
        help="all but these rules; can be repeated",
    ),
)


_TEST = (
    *(option for option in _OF_SETTINGS if option.name != REPORT.flag),  # its own are others
    _option(
        "--timeout",
        type=float,
        default=600,
        metavar="SECONDS",
        help="how long a file of tests may run (default: 600)",
    ),
    _option(
        "--jobs", type=int, metavar="N", help="how many files at a time (default: half the cores)"
    ),
    _option(
        "--retries",
        type=int,
        default=1,
        metavar="N",
        help="how often a test that differs is repeated before it counts (default: 1)",
    ),
    _option(
        "--results",
        default=".torchdevice_test",
        metavar="FOLDER",
        help="where results, logs and reports are kept (default: .torchdevice_test)",
    ),
    _option("--resume", action="store_true", help="run only files that have no results yet"),
    _option(
        "--report",
        dest="reports",
        action="append",
        metavar="FILE",
        help="write a report here, too: .html, .md, .json or .xml (JUnit); may be repeated",
    ),
    _option(
        "--strict",
        action="store_true",
        help="exit code 1 also where a test fails that plain torch skips",
    ),
)


# How the words begin that stand for a program, beside the name of a script.
_PROGRAM_KINDS = {"-": "stdin", "-m": "module", "-c": "code"}


@dataclass(frozen=True, slots=True)
class Command:
    """A command of `torchdevice`.

    Attributes:
        help: One line about it.
        options: What it takes.
        execute: Carries it out: options and program in, exit code out.
        usage: How a program follows the options; empty where none does.
        epilog: Help below the options.
        takes: What follows the options where that is no program.
        has_default: Whether the program may be left out.
    """

    help: str
    options: tuple[Option, ...]
    execute: Callable[[argparse.Namespace, Program | None], int]
    usage: str = ""
    epilog: str = ""
    takes: str = ""
    has_default: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """The command `torchdevice`.

    `run` turns this process into the program's: redirection stays on until the process ends,
    so that the program's threads and handlers at exit have it too.

    Args:
        argv: Arguments without the command's name; by default those of the process.

    Returns:
        The exit code.

    Raises:
        SystemExit: After `--help` and `--version`, and with code 2 after a usage error.
        BaseException: Whatever ends the program that `run` runs.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    given, program = arguments, None
    name = arguments[0] if arguments else ""
    if name not in COMMANDS and name not in _WITHOUT_COMMAND:
        parser.error(no_command(name, list(COMMANDS)))
    if name in COMMANDS and COMMANDS[name].usage:
        given, program = _split(arguments, COMMANDS[name])
    options, unknown = parser.parse_known_args(given)
    if unknown:
        parser.error(unknown_words(unknown, options.command, options.flags, program is not None))
    command = COMMANDS[options.command]
    if command.usage and program is None and not command.has_default:
        parser.error(no_program(arguments))
    return command.execute(options, program)


_WITHOUT_COMMAND = ("-h", "--help", "-V", "--version")


def _parser() -> Parser:
    parser = Parser(
        prog="torchdevice",
        description="Run PyTorch code written for one accelerator, unmodified, on another.",
        allow_abbrev=False,
    )
    parser.add_argument("-V", "--version", action="version", version=f"torchdevice {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=command.help,
            description=command.help,
            epilog=command.epilog or None,
            usage=f"torchdevice {name} [options] {command.usage}{command.takes}".rstrip(),
            allow_abbrev=False,
        )
        for option in command.options:
            sub.add_argument(option.name, **option.told)
        sub.set_defaults(flags=[flag for flag in sub._option_string_actions if len(flag) > 2])
    return parser


def _split(arguments: Sequence[str], command: Command) -> tuple[list[str], Program | None]:
    """Cut a command line where the program begins.

    argparse has no way to say "everything after this belongs to another program": its REMAINDER
    takes options out of the program's arguments.

    Args:
        arguments: The command line, the command's name first.
        command: Whose options come before the program.

    Returns:
        The arguments for argparse, and the program, if there is one.
    """
    with_value = {option.name for option in command.options if option.takes_value}
    position = 1
    while position < len(arguments):
        argument = arguments[position]
        if argument == "--" or not argument.startswith("-") or argument[:2] in _PROGRAM_KINDS:
            break
        position += 2 if argument in with_value else 1
    given, rest = list(arguments[:position]), list(arguments[position:])
    if rest[:1] == ["--"]:
        rest = rest[1:]
    return given, _program(rest)


def _program(rest: list[str]) -> Program | None:
    """Read what `python` would be given: `script`, `-m module`, `-c code` or `-`."""
    if not rest:
        return None
    first, *others = rest
    kind = _PROGRAM_KINDS.get(first[:2])
    if kind is None:
        return Program("script", first, tuple(others))
    if kind == "stdin":
        return Program(kind, first, tuple(others))
    # The name may be joined to the option: `-mtimeit`.
    joined = [first[2:], *others] if first[2:] else others
    return Program(kind, joined[0], tuple(joined[1:])) if joined else None


# --- commands --------------------------------------------------------------------------------


def _fail(code: int, sentence: object) -> int:
    print(f"torchdevice: error: {sentence}", file=sys.stderr)
    return code


def _import_torch(simulate: str | None) -> None:
    """Import torch, and the simulated accelerator before torch is asked anything."""
    import_module("torch")
    if simulate is not None:
        import_module(f"{__package__}.simulate").load(simulate)


def _without_torch(error: ModuleNotFoundError) -> int:
    if error.name != "torch":
        raise error
    return _fail(1, f"torch is not installed for {sys.executable}: install it with pip.")


def _run(options: argparse.Namespace, program: Program | None) -> int:
    assert program is not None
    found: Mapping[str, Found] = {}
    try:
        settings, run_settings, found = choose(vars(options), os.environ, folder_of(program))
        # For this process too, which reads some of these where they are needed.
        folder = os.environ.get(FOLDER) or new_folder(os.environ)
        told = variables_for(settings, run_settings._asdict(), folder)
        start = prepare(program)
        asks_torch = settings.target not in (None, "cpu") or settings.verify is not None
        if run_settings.simulate is not None or asks_torch:
            # Whether there is such a target or operator, only torch knows, and the program must
            # not start without it. Otherwise torch is imported when the program does.
            _import_torch(run_settings.simulate)
        exported = Exported(told, os.environ)  # for as long as the process lasts
        try:
            reports = _reports(run_settings, options.report)
            configure()
            before_torch(settings.substitutes)
            announce_missing(lambda: "torch" not in sys.modules)
            contexts: list[Context | None] = []
            when_imported("torch", lambda: contexts.append(_enable(settings)))
        except BaseException:
            exported.take_back()
            raise
    except OSError as error:
        name = error.filename or program.name
        problem = f"can't open file {name!r}: [Errno {error.errno}] {error.strerror}"
        print(f"torchdevice: {problem}", file=sys.stderr)
        return 2
    except TorchDeviceError as error:
        return _fail(2, with_place(error, found))
    except ModuleNotFoundError as error:
        return _without_torch(error)
    # Handlers run last in, first out: this one after all of the program's own.
    stream = None if run_settings.quiet else sys.stderr
    process, folder = os.getpid(), str(current_folder() or "")
    atexit.register(
        lambda: finish(contexts, stream, process, folder, settings=settings, reports=reports)
    )
    run(start)
    return 0


def _reports(settings: RunSettings, options: list[str] | None) -> tuple[str, ...]:
    """Where this process writes reports, as no other does: of a family, the outermost."""
    is_inner = FOLDER in os.environ and not Family(Ledger(), os.environ).is_root
    # The session of this process would write them as well.
    os.environ.pop(REPORT.variable, None)
    return () if is_inner and not options else settings.report


def _enable(settings: Settings) -> Context | None:
    from . import _session

    return _session.enable(settings)


def _info(options: argparse.Namespace, program: Program | None) -> int:
    found: Mapping[str, Found] = {}
    try:
        settings, run_settings, found = choose(vars(options), os.environ, folder_of(None))
        _import_torch(run_settings.simulate)
        from . import _info as info

        facts = info.collect(settings, found)
        print_out(json.dumps(facts, indent=2) if options.json else info.render(facts))
    except TorchDeviceError as error:
        return _fail(2, with_place(error, found))
    except ModuleNotFoundError as error:
        return _without_torch(error)
    return 0


def _gap(options: argparse.Namespace, program: Program | None) -> int:
    try:
        import_module("torch")
        from . import _gap as gap

        entries = gap.collect(options.torch_module)
        if options.json:
            names = {e.name: {"state": e.state, "reason": e.reason} for e in entries}
            text = json.dumps({"counts": gap.counts(entries), "names": names}, indent=2)
        else:
            text = gap.markdown(entries) if options.markdown else gap.render(entries)
        print_out(text.removesuffix("\n"))
    except TorchDeviceError as error:
        return _fail(2, error)
    except ModuleNotFoundError as error:
        return _without_torch(error)
    return int(any(entry.state == gap.MISSING for entry in entries))


def _doctor(options: argparse.Namespace, program: Program | None) -> int:
    from ._doctor import _command as doctor

    try:
        return doctor.execute(options)
    except TorchDeviceError as error:
        return _fail(2, error)


def _test(options: argparse.Namespace, program: Program | None) -> int:
    try:
        return int(import_module(f"{__package__}._tester.command").test(vars(options), program))
    except TorchDeviceError as error:
        return _fail(2, error)


COMMANDS: dict[str, Command] = {
    "run": Command(
        "run a program as python does, its devices redirected",
        _RUN,
        _run,
        usage="(script.py | -m module | -c code | -) [arguments]",
        epilog="Everything after the program's name belongs to the program. For options of "
        "python itself, run python OPTIONS -m torchdevice run.",
    ),
    "info": Command(
        "show the machine, the target, and what each request for a device gets", _INFO, _info
    ),
    "gap": Command(
        "list torch's public names, and what answers for each; exit code 1 if a name is missing",
        _GAP,
        _gap,
    ),
    "doctor": Command(
        "tell what a program or a repository uses, without running it, and whether it would run",
        _DOCTOR,
        _doctor,
        takes="PATH...",
        epilog="Exit code 0: it would run; 1: something needs work; 2: wrong usage. A comment "
        "# torchdevice: ignore[RULE] on a line silences what is found there.",
    ),
    "test": Command(
        "run a project's own tests plain and redirected, and tell what differs; exit code 1 if a "
        "test that passes on plain torch fails redirected",
        _TEST,
        _test,
        usage="[-- pytest arguments | -- unittest arguments]",
        epilog="Without a command, pytest runs what it finds in this folder. See docs/testing.md.",
        has_default=True,
    ),
}

"""Runs a program in this process exactly as `python` would run it.

The program gets a `__main__` module, `sys.argv` and `sys.path[0]` of its own. What it raises is
left to the interpreter, which knows best how a program ends: it prints the traceback, calls
handlers at exit and dies by the signal that a keyboard interrupt stands for. Only the frames of
this package are taken off the top of the traceback first.
"""

from __future__ import annotations

import builtins
import importlib.machinery
import io
import linecache
import os
import pkgutil
import runpy
import sys
import textwrap
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Program", "current_folder", "folder_of", "prepare", "run"]


@dataclass(frozen=True, slots=True)
class Program:
    """What to run, as it stands on a command line of `python`.

    Attributes:
        kind: `script` (a file, a directory or a zip archive), `module` (`-m`), `code` (`-c`)
            or `stdin` (`-`).
        name: The path, the module's name, or the code; `-` for `stdin`.
        arguments: The program's own arguments.
    """

    kind: str
    name: str
    arguments: tuple[str, ...] = ()


def current_folder() -> Path | None:
    """The current folder; None where that was deleted."""
    try:
        return Path.cwd()
    except OSError:
        return None


def folder_of(program: Program | None) -> Path | None:
    """The folder that Python puts first on a program's path.

    Args:
        program: The program; None for what has none.

    Returns:
        A script's own folder, also where a link led to it, or the folder of programs that is run;
        otherwise the current one. None where that was deleted.
    """
    try:
        if program is None or program.kind != "script":
            return current_folder()
        # Not by `Path.resolve`, which raises another error for links that lead in a circle.
        path = Path(os.path.realpath(program.name))
        return path if path.is_dir() else path.parent
    except OSError:
        return None


def prepare(program: Program) -> Callable[[], None]:
    """Make this process the program's: `__main__`, `sys.argv` and `sys.path[0]`.

    Args:
        program: What to run.

    Returns:
        What runs the program; hand it to `run`.

    Raises:
        OSError: If the script cannot be read; nothing is changed then.
    """
    return _PREPARATIONS[program.kind](program)


def run(start: Callable[[], None]) -> None:
    """Run a prepared program to its end.

    Args:
        start: What `prepare` gave.

    Raises:
        BaseException: Whatever ends the program, `SystemExit` included. Let it pass: the
            interpreter then prints it without this package's frames.
    """
    try:
        start()
    except SystemExit:
        raise
    except BaseException as error:
        _hide_own_frames(error)
        raise


# --- the four kinds of program ---------------------------------------------------------------


def _prepare_script(program: Program) -> Callable[[], None]:
    # `python` joins and does not normalise: `__file__` and tracebacks show the path as given.
    path = program.name
    if not os.path.isabs(path):  # noqa: PTH117
        path = os.path.join(os.getcwd(), path)  # noqa: PTH118, PTH109
    if pkgutil.get_importer(path) is not None:
        return _prepare_archive(program, path)
    loader: importlib.machinery.SourceFileLoader | importlib.machinery.SourcelessFileLoader
    if path.endswith(".pyc"):
        loader = importlib.machinery.SourcelessFileLoader("__main__", path)
        code = loader.get_code("__main__")
        assert code is not None

        def read() -> Any:
            return code
    else:
        loader = importlib.machinery.SourceFileLoader("__main__", path)
        with io.open_code(path) as file:
            source = file.read()

        def read() -> Any:
            return compile(source, path, "exec", dont_inherit=True)

    # The real path's folder, so that a script reached by a link finds its neighbours.
    _set_first_path(os.path.dirname(os.path.realpath(path)))  # noqa: PTH120
    sys.argv = [program.name, *program.arguments]
    return _executes(read, __loader__=loader, __file__=path, __cached__=None)


def _prepare_archive(program: Program, path: str) -> Callable[[], None]:
    """A directory or zip archive with a `__main__.py`."""
    _set_first_path(path, always=True)
    sys.argv = [program.name, *program.arguments]
    _replace_main()
    return lambda: _run_module_as_main("__main__", False)


def _prepare_module(program: Program) -> Callable[[], None]:
    _set_first_path(os.getcwd())  # noqa: PTH109
    sys.argv = ["-m", *program.arguments]
    _replace_main()
    return lambda: _run_module_as_main(program.name, True)


def _prepare_code(program: Program) -> Callable[[], None]:
    _set_first_path("")
    sys.argv = ["-c", *program.arguments]
    source = program.name
    if sys.version_info >= (3, 14):
        source = textwrap.dedent(source)
    if sys.version_info >= (3, 13):
        # Since then tracebacks show the lines of such code.
        lines = source.splitlines(keepends=True)
        linecache.cache["<string>"] = (len(source), None, lines, "<string>")
    return _executes(lambda: compile(source, "<string>", "exec", dont_inherit=True))


def _prepare_stdin(program: Program) -> Callable[[], None]:
    source = sys.stdin.buffer.read()
    _set_first_path("")
    sys.argv = ["-", *program.arguments]
    return _executes(
        lambda: compile(source, "<stdin>", "exec", dont_inherit=True),
        __file__="<stdin>",
        __cached__=None,
    )


_PREPARATIONS: dict[str, Callable[[Program], Callable[[], None]]] = {
    "script": _prepare_script,
    "module": _prepare_module,
    "code": _prepare_code,
    "stdin": _prepare_stdin,
}

# What the interpreter itself calls, by this name, for `-m`; `runpy.run_module` would leave no
# `__main__` behind for pickle and spawned processes.
_run_module_as_main: Callable[[str, bool], Any] = vars(runpy)["_run_module_as_main"]


# --- parts -----------------------------------------------------------------------------------


def _replace_main(**names: Any) -> types.ModuleType:
    """A fresh `__main__`, with the names that the interpreter gives it."""
    main = types.ModuleType("__main__")
    given = {"__builtins__": builtins, "__loader__": importlib.machinery.BuiltinImporter}
    vars(main).update(given | names)
    if sys.version_info < (3, 14):
        vars(main)["__annotations__"] = {}
    sys.modules["__main__"] = main
    return main


def _executes(read: Callable[[], Any], **names: Any) -> Callable[[], None]:
    main = _replace_main(**names)
    # Compiling belongs to the run: a syntax error is the program's.
    return lambda: exec(read(), vars(main))


def _set_first_path(path: str, *, always: bool = False) -> None:
    """Put the program's `sys.path[0]` where the interpreter put that of our command.

    Args:
        path: The entry.
        always: Add it under `-P` as well, under which the interpreter adds none by itself.
    """
    safe = getattr(sys.flags, "safe_path", sys.flags.isolated)
    if not safe:
        sys.path[:1] = [path]
    elif always:
        sys.path.insert(0, path)


def _hide_own_frames(error: BaseException) -> None:
    """Have the interpreter print the error with the traceback that `python` would show."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_globals is globals():
        traceback = traceback.tb_next
    # The one that holds when the program ends, which may be the program's own.
    show = sys.excepthook

    def show_without_own_frames(
        kind: type[BaseException], value: BaseException, full: types.TracebackType | None
    ) -> None:
        if value is error:
            sys.last_traceback = full = value.__traceback__ = traceback
        show(kind, value, full)

    sys.excepthook = show_without_own_frames

"""What is known of a place in a program, and what statements do to the flow of control."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ._names import Fact, Scope, dotted, last_name

__all__ = [
    "FUNCTIONS",
    "IMPORT_ERRORS",
    "Imported",
    "Where",
    "asks_for_main",
    "branch",
    "caught_by",
    "end_of",
    "gives_up",
    "inner",
    "parameters",
]

IMPORT_ERRORS = frozenset({"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})
"""What catches an import that fails."""
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_EXITS = frozenset({"sys.exit", "exit", "quit", "os._exit", "os.abort"})


@dataclass(frozen=True, slots=True)
class Where:
    """What is known of the place that is read.

    Attributes:
        scope: The names there.
        enclosing: The names that functions defined there see around them.
        function: Qualified name of the function; empty at the level of the module.
        conditional: Whether it depends on something that is not known.
        dead: Why it is not reached; empty if it may be.
        because: Why it is reached, where that is a fact about CUDA.
        caught: Names of the exceptions that are caught around it.
    """

    scope: Scope
    enclosing: Scope
    function: str = ""
    conditional: bool = False
    dead: str = ""
    because: str = ""
    caught: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Imported:
    """A module that a file imports.

    Attributes:
        module: Dotted name as it is written, without the dots of a relative import.
        names: What is imported from it; empty for `import module`.
        level: Dots of a relative import.
        line: Where.
        sure: Whether importing the file comes to it for certain.
        caught: Names of the exceptions that are caught around it.
        owner: The function or class at the level of the module that it is in, if any.
    """

    module: str
    names: tuple[str, ...]
    level: int
    line: int
    sure: bool
    caught: frozenset[str] = frozenset()
    owner: str = ""


def inner(where: Where, names: Iterable[str]) -> Where:
    scope = Scope(where.scope)
    for name in names:
        scope.bind(name, None, None)
    return replace(where, scope=scope)


def branch(where: Where, known: Fact | None, *, taken: bool) -> Where:
    """One side of a condition: `taken` is the side that runs where it is true."""
    if known is None:
        return replace(where, conditional=True)
    if bool(known.value) is taken:
        return replace(where, because=known.why)
    return replace(where, dead=where.dead or known.why)


def caught_by(handler: ast.ExceptHandler) -> list[str]:
    if handler.type is None:
        return ["BaseException"]
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return [last_name(kind) for kind in kinds]


def asks_for_main(test: ast.expr) -> bool:
    if not isinstance(test, ast.Compare) or len(test.comparators) != 1:
        return False
    sides = (test.left, test.comparators[0])
    return any(isinstance(side, ast.Name) and side.id == "__name__" for side in sides)


def gives_up(node: ast.stmt, scope: Scope) -> bool:
    """Whether a statement ends the program, or raises."""
    if isinstance(node, ast.Raise):
        return True
    call = node.value if isinstance(node, ast.Expr) else None
    if not isinstance(call, ast.Call):
        return False
    # `sys` may be imported right before, in what is not read yet.
    return dotted(call.func, scope) in _EXITS or ast.unparse(call.func) in _EXITS


def end_of(node: ast.stmt, scope: Scope) -> str:
    """Why nothing after a statement of a block is reached; empty if it is."""
    if isinstance(node, (ast.Return, ast.Continue, ast.Break)) or gives_up(node, scope):
        return "the block ends before"
    return ""


def parameters(arguments: ast.arguments) -> list[str]:
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
    return [argument.arg for argument in every]

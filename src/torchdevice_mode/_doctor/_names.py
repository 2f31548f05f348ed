"""What the names of a file stand for: modules and their names, and facts that are known.

Scopes are filled while the file is read in the order of execution, so that an alias, a name
that is imported in a `try` and a fact kept in a variable are known where they are used.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Binding", "Fact", "Scope", "dotted", "last_name"]

_BUILTINS = frozenset(dir(builtins))


@dataclass(frozen=True, slots=True)
class Fact:
    """A value that is known before the program runs.

    Attributes:
        value: The value.
        why: From what it is known, as a sentence without a full stop; empty for a constant.
    """

    value: Any
    why: str = ""


@dataclass(frozen=True, slots=True)
class Binding:
    """What a name stands for: a dotted name, a fact, both or neither."""

    path: str | None = None
    fact: Fact | None = None


@dataclass(slots=True)
class Scope:
    """The names of a module, class or function, and the scope around it.

    Attributes:
        parent: The scope around it that its names are looked up in; None for a module.
        body: Its statements.
        names: What each name stands for.
        unknown: Dotted names of torch whose value is not known, of a module; for all scopes in it.
    """

    parent: Scope | None = None
    body: Sequence[ast.stmt] = ()
    names: dict[str, Binding] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()
    _changing: frozenset[str] | None = None

    def is_unknown(self, name: str) -> bool:
        """Whether the value of a dotted name of torch is not known."""
        scope: Scope = self
        while scope.parent is not None:
            scope = scope.parent
        return name in scope.unknown

    def find(self, name: str) -> Binding | None:
        """What a name stands for here; None if nothing is known of it."""
        scope: Scope | None = self
        while scope is not None:
            found = scope.names.get(name)
            if found is not None:
                return found
            scope = scope.parent
        return None

    def bind(self, name: str, path: str | None, fact: Fact | None, *, sure: bool = True) -> None:
        """Let a name stand for something.

        Args:
            name: The name.
            path: Dotted name of what it stands for.
            fact: Its value, if known.
            sure: Whether this certainly happens; if not, no fact is known of the name, and what
                it may stand for else is kept where it now stands for nothing known.
        """
        before = self.names.get(name)
        if not sure and before is not None and path is None:
            path = before.path
        if fact is not None and (not sure or self._is_changing(name)):
            fact = None
        self.names[name] = Binding(path, fact)

    def _is_changing(self, name: str) -> bool:
        """Whether a name is assigned in loops or from other scopes, so that no fact of it holds."""
        if self._changing is None:
            self._changing = _changing_in(self.body)
        return name in self._changing


def last_name(node: ast.expr) -> str:
    """The last part of a name, whatever stands before it; empty for what is no name."""
    return str(getattr(node, "attr", None) or getattr(node, "id", ""))


def dotted(node: ast.expr, scope: Scope) -> str | None:
    """The dotted name that an expression stands for, aliases resolved.

    Args:
        node: The expression.
        scope: Where it stands.

    Returns:
        Such as `"torch.cuda.synchronize"`; None for what is no imported name or builtin.
    """
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        found = scope.find(node.id)
        builtin = node.id if node.id in _BUILTINS else None
        root = builtin if found is None else found.path
    elif isinstance(node, ast.Call):
        root = _looked_up(node, scope)
    else:
        root = None
    return None if root is None else ".".join([root, *reversed(parts)])


def _looked_up(node: ast.Call, scope: Scope) -> str | None:
    """`getattr(torch, "cuda")` and `importlib.import_module("torch.cuda")`."""
    name = dotted(node.func, scope)
    if name == "getattr" and len(node.args) >= 2:
        root, attribute = dotted(node.args[0], scope), _text(node.args[1])
        return f"{root}.{attribute}" if root and attribute else None
    if name in ("importlib.import_module", "__import__") and node.args:
        module = _text(node.args[0])
        if module and name == "__import__":
            return module.partition(".")[0]
        return module
    return None


def _text(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _changing_in(body: Sequence[ast.stmt]) -> frozenset[str]:
    """Names whose value at one place does not tell that at another."""
    found: set[str] = set()
    for statement in body:
        stack: list[tuple[ast.AST, bool, bool]] = [(statement, False, False)]
        while stack:
            node, in_loop, in_function = stack.pop()
            if isinstance(node, (ast.Global, ast.Nonlocal)):
                found.update(node.names)
            if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
                found.add(node.target.id)
            stored = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            if stored and in_loop and not in_function:
                found.add(node.id)  # type: ignore[attr-defined]
            looping = in_loop or isinstance(node, (ast.For, ast.AsyncFor, ast.While))
            inside = in_function or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            stack += [(child, looping, inside) for child in ast.iter_child_nodes(node)]
    return frozenset(found)

"""Folders that a program adds to `sys.path`, as far as its text tells them.

Such as `sys.path.append("core")`, and what `os.path` or `pathlib` make of `__file__`, through
variables. Read from the tree alone, before names are followed.
"""

from __future__ import annotations

import ast
import os
import re
from typing import NamedTuple

from ._names import last_name

__all__ = ["MAY_ADD", "Folder", "added_folders"]

MAY_ADD = re.compile(r"\bpath\.(append|insert|extend)\b|\badd_path\b|\baddsitedir\b")
"""What the text of a file holds that adds a folder: most do not, and are not searched."""

# Functions of programs' own, and of `site`, that do nothing else.
_ADDS = frozenset({"add_path", "addsitedir"})
_LISTS = frozenset({"append", "insert", "extend"})
_SAME = frozenset({"abspath", "realpath", "normpath", "str", "Path", "resolve", "absolute"})
_DEEP = 20
"""Steps after which a variable is taken to be made of itself."""


class Folder(NamedTuple):
    """A folder that is added.

    Attributes:
        path: Relative, or absolute.
        own: Whether it is relative to the file's own folder, not to where the program starts.
    """

    path: str
    own: bool


def added_folders(tree: ast.Module) -> list[Folder]:
    """The folders that a file adds to the search path of modules.

    Args:
        tree: Its syntax tree.

    Returns:
        Folders, in the order of the text; what cannot be told is left out.
    """
    nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.Assign, ast.Call))]
    calls = [node for node in nodes if isinstance(node, ast.Call) and node.args and _adds(node)]
    if not calls:
        return []
    values: dict[str, ast.expr] = {}
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values.setdefault(node.targets[0].id, node.value)
    found = []
    for call in calls:
        last = call.args[-1]
        for part in last.elts if isinstance(last, (ast.List, ast.Tuple)) else [last]:
            folder = _Paths(values).read(part)
            if folder is not None:
                found.append(Folder(os.path.normpath(folder.path), folder.own))
    return list(dict.fromkeys(found))


def _adds(call: ast.Call) -> bool:
    name = last_name(call.func)
    if name in _LISTS:
        owner = call.func.value if isinstance(call.func, ast.Attribute) else call.func
        return last_name(owner) == "path"
    return name in _ADDS


class _Paths:
    """Reads expressions that are paths; `__file__` is a file in the file's own folder."""

    def __init__(self, values: dict[str, ast.expr]) -> None:
        self.values = values
        self.steps = 0

    def read(self, node: ast.expr) -> Folder | None:
        self.steps += 1
        if self.steps > _DEEP:
            return None
        if isinstance(node, ast.Constant):
            return Folder(node.value, False) if isinstance(node.value, str) else None
        if isinstance(node, ast.Name):
            if node.id == "__file__":
                return Folder("file", True)
            return self.read(self.values[node.id]) if node.id in self.values else None
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Div, ast.Add)):
            return self._joined([node.left, node.right])
        if isinstance(node, ast.Attribute) and node.attr == "parent":
            return self._above(node.value, 1)
        if isinstance(node, ast.Subscript) and last_name(node.value) == "parents":
            index = getattr(node.slice, "value", None)
            owner = getattr(node.value, "value", None)
            return self._above(owner, index + 1) if isinstance(index, int) and owner else None
        return self._made_by(node) if isinstance(node, ast.Call) else None

    def _made_by(self, call: ast.Call) -> Folder | None:
        name = last_name(call.func)
        if name in ("getcwd", "cwd"):
            return Folder(".", False)
        if name in ("join", "joinpath"):
            first = [] if name == "join" else [getattr(call.func, "value", call.func)]
            return self._joined([*first, *call.args])
        # path.resolve() has no argument, os.path.abspath(path) has
        given = call.args[0] if call.args else getattr(call.func, "value", None)
        if given is None or name not in (*_SAME, "dirname"):
            return None
        return self._above(given, int(name == "dirname"))

    def _above(self, node: ast.expr, steps: int) -> Folder | None:
        folder = self.read(node)
        return folder and Folder(folder.path + "/.." * steps, folder.own)

    def _joined(self, nodes: list[ast.expr]) -> Folder | None:
        first, *others = [self.read(node) for node in nodes]
        if first is None or any(other is None or other.own for other in others):
            return None
        # `"/core"` follows a `+`
        texts = [other.path.lstrip("/") for other in others if other is not None]
        return Folder("/".join([first.path, *texts]), first.own)

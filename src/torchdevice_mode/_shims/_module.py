"""Puts a table in the place of a module of torch: by assigning the class of the module object.

Whoever holds the module sees the answers, while the module's own globals stay as they are, and
undoing it is one assignment. The class has a data descriptor for each name with an answer; all
other names are found as fast as ever.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from .._context import Context
from .._patches import Patch
from ._surface import Row, Surface, held_by

__all__ = ["module_patches"]

_ABSENT = object()


class _Answer:
    """The descriptor of one name of one module."""

    __slots__ = ("name", "original", "redirection", "row")

    def __init__(
        self, name: str, row: Row, original: object, redirection: Callable[[], Context | None]
    ) -> None:
        self.name = name
        self.row = row
        self.original = original
        self.redirection = redirection

    def __get__(self, module: types.ModuleType | None, owner: type | None = None) -> Any:
        if module is None:
            return self
        found = held_by(module).get(self.name, _ABSENT)
        # A test or a library may have put something of its own there: that is what it wants.
        if found is self.original and self.redirection() is not None:
            return self.row.answer() if self.row.computed else self.row.answer
        if found is _ABSENT:
            raise AttributeError(f"module {module.__name__!r} has no attribute {self.name!r}")
        return found

    def __set__(self, module: types.ModuleType, value: object) -> None:
        # `unittest.mock` puts back what it read, which was the answer.
        if value is not self.row.answer:
            vars(module)[self.name] = value
        elif self.original is _ABSENT:
            vars(module).pop(self.name, None)
        else:
            vars(module)[self.name] = self.original

    def __delete__(self, module: types.ModuleType) -> None:
        if vars(module).pop(self.name, _ABSENT) is _ABSENT:
            raise AttributeError(self.name)


def _modules(root: str) -> Iterator[types.ModuleType]:
    """The module and its submodules, as far as torch has imported them."""
    # A quick look first: there are thousands of modules, and this is done when enabling.
    for name in [name for name in sys.modules if name.startswith(root)]:
        if name == root or name[len(root)] == ".":
            yield sys.modules[name]


def _rows_by_module(surface: Surface) -> dict[str, dict[str, Row]]:
    """The rows that answer, by the path of their module below the root and by name."""
    rows: dict[str, dict[str, Row]] = {"": {}}
    for row in surface.rows.values():
        if row.answer is not None:
            path, _, name = row.name.rpartition(".")
            rows.setdefault(path, {})[name] = row
    return rows


def _answers(
    surface: Surface, module: types.ModuleType, rows: dict[str, dict[str, Row]]
) -> dict[str, _Answer]:
    """The descriptors of a module: its own rows, and those of the root that it exports too."""
    held, root = held_by(module), held_by(sys.modules[surface.root])
    path = module.__name__[len(surface.root) + 1 :]
    found = {
        name: (row, held.get(name, _ABSENT))
        for name, row in rows.get(path, {}).items()
        if name in held or row.name in surface.added
    }
    for name in rows[""].keys() & held.keys() - found.keys():
        if held[name] is root.get(name, _ABSENT):
            found[name] = (rows[""][name], held[name])
    return {
        name: _Answer(name, row, original, surface.redirection)
        for name, (row, original) in found.items()
    }


def _reclass(answers: dict[str, _Answer]) -> Callable[[type], type]:
    # The name is seen in `type(torch.cuda)` alone; `repr(torch.cuda)` stays as it is.
    return lambda original: type(original.__name__, (original,), {"__slots__": (), **answers})


def module_patches(surface: Surface) -> tuple[Patch, ...]:
    """A patch for each module of a surface that has rows with answers."""
    rows = _rows_by_module(surface)
    return tuple(
        Patch(
            lambda module=module: module,  # type: ignore[misc]
            "__class__",
            _reclass(answers),
            f"{surface.root} is plain Python functions and C++ calls into them: no mode sees them",
        )
        for module in _modules(surface.root)
        if (answers := _answers(surface, module, rows))
    )

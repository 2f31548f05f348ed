"""Puts the table in the place of torch.cuda: by assigning the class of the module object.

Whoever holds the module sees the answers, while the module's own globals stay as they are, and
undoing it is one assignment. The class has a data descriptor for each name with a row; all
other names are found as fast as ever.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch.cuda

from ..._patches import Patch
from ._surface import SURFACE, Row, State, redirection

__all__ = ["module_patches"]

_ABSENT = object()
_ROOT = "torch.cuda"


class _Answer:
    """The descriptor of one name of one module."""

    __slots__ = ("name", "original", "row")

    def __init__(self, name: str, row: Row, original: object) -> None:
        self.name = name
        self.row = row
        self.original = original

    def __get__(self, module: types.ModuleType | None, owner: type | None = None) -> Any:
        if module is None:
            return self
        found = vars(module).get(self.name, _ABSENT)
        # A test or a library may have put something of its own there: that is what it wants.
        if found is self.original and redirection() is not None:
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


def _modules() -> Iterator[types.ModuleType]:
    """torch.cuda and its submodules, as far as torch has imported them."""
    for name, module in list(sys.modules.items()):
        if name == _ROOT or name.startswith(_ROOT + "."):
            yield module


def _rows_by_module() -> dict[str, dict[str, Row]]:
    """The rows that answer, by the path of their module below torch.cuda and by name."""
    rows: dict[str, dict[str, Row]] = {"": {}}
    for row in SURFACE.values():
        if row.state is not State.NATIVE:
            path, _, name = row.name.rpartition(".")
            rows.setdefault(path, {})[name] = row
    return rows


def _answers(module: types.ModuleType, rows: dict[str, dict[str, Row]]) -> dict[str, _Answer]:
    """The descriptors of a module: its own rows, and those of torch.cuda that it exports too."""
    held, root = vars(module), vars(torch.cuda)
    path = module.__name__[len(_ROOT) + 1 :]
    answers = {
        name: _Answer(name, row, held.get(name, _ABSENT))
        for name, row in rows.get(path, {}).items()
    }
    for name in rows[""].keys() & held.keys() - answers.keys():
        if held[name] is root.get(name, _ABSENT):
            answers[name] = _Answer(name, rows[""][name], held[name])
    return answers


def _reclass(answers: dict[str, _Answer]) -> Callable[[type], type]:
    # The name is seen in `type(torch.cuda)` alone; `repr(torch.cuda)` stays as it is.
    answering = type("module", (types.ModuleType,), {"__slots__": (), **answers})
    return lambda original: answering


def module_patches() -> tuple[Patch, ...]:
    """A patch for each module of torch.cuda that has rows."""
    rows = _rows_by_module()
    return tuple(
        Patch(
            lambda module=module: module,  # type: ignore[misc]
            "__class__",
            _reclass(answers),
            "torch.cuda is plain Python functions and C++ calls into them: no mode sees them",
        )
        for module in _modules()
        if type(module) is types.ModuleType and (answers := _answers(module, rows))
    )

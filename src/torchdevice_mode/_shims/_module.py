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

from .._patches import Patch
from ._surface import Row, Surface, held_by

__all__ = ["module_patches"]

_ABSENT = object()


class _Answer:
    """The descriptor of one name of one module.

    Args:
        surface: The table.
        path: The name, dotted below the surface's module.
        original: What plain torch has there.
        row: Its row; None if the file that holds it is imported when the name is first used.
    """

    __slots__ = ("_row", "name", "original", "path", "surface")

    def __init__(self, surface: Surface, path: str, original: object, row: Row | None) -> None:
        self.surface = surface
        self.path = path
        self.name = path.rpartition(".")[2]
        self.original = original
        self._row = row

    @property
    def row(self) -> Row | None:
        """The row; None where plain torch's own is right."""
        if self._row is None:
            self._row = self.surface.row(self.path)
        return self._row

    def __get__(self, module: types.ModuleType | None, owner: type | None = None) -> Any:
        if module is None:
            return self
        found = held_by(module).get(self.name, _ABSENT)
        # A test or a library may have put something of its own there: that is what it wants.
        holding = self.surface.redirection() if found is self.original else None
        if holding is not None:
            row = self.row
            if row is not None and row.answer is not None:
                # A function is counted where it is called.
                if isinstance(row.answer, type) and self.surface.is_counted(row.state, self.path):
                    self.surface.note_call(holding, self.path, row.reason, sys._getframe(1))
                return row.answer() if row.computed else row.answer
        if found is _ABSENT:
            raise AttributeError(f"module {module.__name__!r} has no attribute {self.name!r}")
        return found

    def __set__(self, module: types.ModuleType, value: object) -> None:
        # `unittest.mock` puts back what it read, which was the answer.
        if self._row is None or value is not self._row.answer:
            vars(module)[self.name] = value
        elif self.original is _ABSENT:
            vars(module).pop(self.name, None)
        else:
            vars(module)[self.name] = self.original

    def __delete__(self, module: types.ModuleType) -> None:
        if vars(module).pop(self.name, _ABSENT) is _ABSENT:
            raise AttributeError(self.name)


def _modules(module: types.ModuleType) -> Iterator[types.ModuleType]:
    """A module and its submodules, as far as torch has imported them."""
    yield module
    below = module.__name__ + "."
    # Not by `sys.modules`, which holds thousands: this is done when enabling.
    for name, value in list(held_by(module).items()):
        if isinstance(value, types.ModuleType) and value.__name__ == below + name:
            yield from _modules(value)


def _rows_by_module(surface: Surface) -> dict[str, dict[str, Row]]:
    """The rows that answer, by the path of their module below the root and by name."""
    rows: dict[str, dict[str, Row]] = {"": {}}
    for row in surface.known.values():
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
    if path in surface.later:
        exported = set(held.get("__all__", ()))
        return {
            name: _Answer(surface, f"{path}.{name}" if path else name, value, None)
            for name, value in held.items()
            if name in exported or _is_defined_in(module, value)
        }
    found = {
        name: _Answer(surface, row.name, held.get(name, _ABSENT), row)
        for name, row in rows.get(path, {}).items()
        if name in held or row.name in surface.added
    }
    for name in surface.later:
        inside, _, last = name.rpartition(".")
        if inside == path and last in held and not isinstance(held[last], types.ModuleType):
            found[last] = _Answer(surface, name, held[last], None)
        elif not inside and held.get(name, _ABSENT) is root.get(name):
            found[name] = _Answer(surface, name, held[name], None)  # exported by the root, too
    for name in rows[""].keys() & held.keys() - found.keys():
        if held[name] is root.get(name, _ABSENT):
            found[name] = _Answer(surface, name, held[name], rows[""][name])
    return found


def _is_defined_in(module: types.ModuleType, value: object) -> bool:
    return isinstance(value, (types.FunctionType, type)) and value.__module__ == module.__name__


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
        for module in _modules(sys.modules[surface.root])
        if (answers := _answers(surface, module, rows))
    )

"""How names of torch's device modules are answered: from the tables that `gap` shows.

This is the one module of the doctor that needs torch, and only where a program names something
that has to be looked up.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import types
from pathlib import Path
from typing import Any

from ._found import Answer

__all__ = ["States", "built_for_cuda"]

_CUDA = re.compile(r"^cuda\b[^=\n]*= *['\"]", re.MULTILINE)


def built_for_cuda() -> bool:
    """Whether the installed torch was built for CUDA; it is not imported."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return False
    return _CUDA.search(text) is not None


class States:
    """Looks names up; torch is imported at the first one.

    Args:
        target: The type of device that the program is to run on.

    Attributes:
        without_torch: Why the tables cannot be read, as the end of a sentence; empty if they can.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.without_torch = ""
        self._surfaces: tuple[Any, ...] | None = None
        self._known: dict[str, Answer | None] = {}

    def __call__(self, name: str) -> Answer | None:
        """The answer for a dotted name of torch; None for what is none of a device's."""
        if name not in self._known:
            self._known[name] = self._look_up(name)
        return self._known[name]

    def _look_up(self, name: str) -> Answer | None:
        surfaces = self._load()
        if self.without_torch:
            return Answer(name, "name", "")
        if name.startswith("torch._C."):
            return self._private(name)
        for surface in surfaces:
            if name.startswith(surface.root + "."):
                return self._answer(surface, name)
        return None

    def _load(self) -> tuple[Any, ...]:
        if self._surfaces is None:
            self._surfaces = ()
            try:
                importlib.import_module("torch")
                shims = importlib.import_module("torchdevice_mode._shims")
                self._surfaces = tuple(shims.SURFACES)
            except ModuleNotFoundError as error:
                if error.name != "torch":
                    raise
                self.without_torch = f"torch is not installed for {sys.executable}"
            except (ImportError, OSError) as error:
                text = str(error).partition("\n")[0]
                self.without_torch = f"torch cannot be imported: {text}"
        return self._surfaces

    def _answer(self, surface: Any, name: str) -> Answer | None:
        path = name[len(surface.root) + 1 :]
        absent = _absent(surface.root, path, surface.added)
        if absent:
            import torch

            return Answer(absent, "absent", f"torch {torch.__version__} has no such name")
        while path:
            row = surface.row(path)
            found = f"{surface.root}.{path}"
            if row is not None:
                if surface.device_type == self.target:
                    return Answer(found, "native", f"{self.target} is the target")
                return Answer(found, row.state.value, row.reason)
            if isinstance(surface.plain(path), types.ModuleType):
                return None
            path = path.rpartition(".")[0]
        return None

    def _private(self, name: str) -> Answer | None:
        import torch

        attribute = name.split(".")[2]
        if hasattr(torch._C, attribute):
            return None
        return Answer(f"torch._C.{attribute}", "absent", "only torch's builds for CUDA have it")


def _absent(root: str, path: str, added: frozenset[str]) -> str:
    """The part of a name that the installed torch lacks; empty if it has the name."""
    owner: Any = importlib.import_module(root)
    found = root
    for part in path.split("."):
        found = f"{found}.{part}"
        if not hasattr(owner, part):
            # A submodule that nobody imported, or a name that torch adds when CUDA starts.
            if part in added or _is_module(found):
                return ""
            return found
        owner = getattr(owner, part)
        if not isinstance(owner, types.ModuleType):
            return ""  # what classes and values have is not looked into
    return ""


def _is_module(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True

"""Finds and makes the modules of substitutes, and says in the metadata that they are substitutes.

A module is made anew for each `begin`, from functions in the files of this folder, which stay.
"""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import types
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ._missing import MissingNameError, absent
from ._table import DISTRIBUTIONS, MODULES, Distribution

__all__ = ["SubstituteFinder"]


class SubstituteFinder:
    """A finder of `sys.meta_path`, for modules and for `importlib.metadata`.

    Attributes:
        packages: Those whose substitutes are in place, in order.
    """

    def __init__(self) -> None:
        self.packages: dict[str, None] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of a substitute's module; None for all others."""
        if fullname.partition(".")[0] not in self.packages or fullname not in MODULES:
            return None
        is_package = any(name.startswith(f"{fullname}.") for name in MODULES)
        loader: Any = _Loader()
        spec = importlib.machinery.ModuleSpec(
            fullname, loader, origin=_file_of(fullname), is_package=is_package
        )
        spec.has_location = True
        return spec

    def find_distributions(self, context: Any) -> Iterator[importlib.metadata.Distribution]:
        """What `importlib.metadata` says of the substitutes in place.

        Args:
            context: Whom it looks for: `context.name`, or None for all.
        """
        for package in self.packages:
            known = DISTRIBUTIONS[package]
            if context.name is None or _normal(context.name) == known.name:
                yield _Metadata(package, known)


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _file_of(module: str) -> str:
    folder = Path(__file__).parent
    sources = MODULES[module].sources
    return str((folder / (sources[0] if sources else "_table")).with_suffix(".py"))


class _Metadata(importlib.metadata.Distribution):
    def __init__(self, package: str, known: Distribution) -> None:
        self._files = {
            "METADATA": f"Metadata-Version: 2.1\nName: {known.name}\nVersion: {known.version}\n"
            f"Summary: torchdevice's substitute for {known.name}, built on torch's operators\n",
            "top_level.txt": f"{package}\n",
        }

    def read_text(self, filename: str) -> str | None:
        return self._files.get(filename)

    def locate_file(self, path: Any) -> Any:
        return Path(__file__).parent / path


class _Loader:
    """Makes one module."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """None: Python makes the module object."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Fill a module with what the table lists."""
        name = module.__name__
        row = MODULES[name]
        package = name.partition(".")[0]
        names: dict[str, Any] = {}
        for source in row.sources:
            held = import_module(f".{source.replace('/', '.')}", __package__)
            exported = row.names or held.__all__
            names |= {n: getattr(held, n) for n in exported if hasattr(held, n)}
        for missing in row.absent:
            names[missing] = absent(name, missing)
        if name == package:
            names["__version__"] = DISTRIBUTIONS[package].version
        module.__doc__ = f"torchdevice's substitute for {name}."
        module.__dict__["__all__"] = [n for n in names if not n.startswith("_")]
        module.__dict__["__getattr__"] = _raiser(name)
        for submodule in row.imports:
            import_module(f"{name}.{submodule}")
        vars(module).update(names)  # last: a submodule may have the name of what it holds


def _raiser(module: str) -> Any:
    def look_up(name: str) -> Any:
        raise MissingNameError(module, name)

    return look_up

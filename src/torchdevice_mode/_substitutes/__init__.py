"""Substitutes for packages that need an NVIDIA GPU, built on torch's operators alone.

Nothing here is imported before a program asks for one by name. Then `begin` puts a finder in
place, and the package's modules appear as the program imports them; `end` takes away what is
left of them. `_table` says which modules there are and which file of this folder holds their
functions; those files are ordinary modules. Written from the packages' published documentation
and from papers: each file says which.
"""

from __future__ import annotations

import sys
import threading
import types
from collections import Counter
from collections.abc import Sequence

from .._log import logger
from ._finder import SubstituteFinder

__all__ = ["begin", "end", "in_place"]

_lock = threading.RLock()
_users: Counter[str] = Counter()
# The program's own modules of a package that is really there, while its substitute stands in.
_put_aside: dict[str, dict[str, types.ModuleType]] = {}
_finder = SubstituteFinder()


def in_place() -> tuple[str, ...]:
    """The packages whose substitutes are in place."""
    return tuple(_finder.packages)


def begin(packages: Sequence[str], target: str) -> None:
    """Put substitutes in place, for as long as somebody uses them.

    Args:
        packages: Their import names.
        target: Type of the device that requests go to: where that is `"cuda"`, a package that is
            really installed works, and wins.
    """
    with _lock:
        for package in packages:
            _users[package] += 1
            if _users[package] > 1 or (target == "cuda" and _is_installed(package)):
                continue
            _put_aside[package] = _take_modules(package)
            _finder.packages[package] = None
            _say(package, target)
        if _finder.packages and _finder not in sys.meta_path:
            sys.meta_path.insert(0, _finder)


def end(packages: Sequence[str]) -> None:
    """Take substitutes away that `begin` was called for, if nobody else uses them.

    A program's own references to their functions stay good.

    Args:
        packages: As given to `begin`.
    """
    with _lock:
        for package in packages:
            _users[package] -= 1
            if _users[package] > 0:
                continue
            del _users[package]
            if package in _finder.packages:
                del _finder.packages[package]
                _take_modules(package)
                sys.modules.update(_put_aside.pop(package))
        if not _finder.packages and _finder in sys.meta_path:
            sys.meta_path.remove(_finder)


def _take_modules(package: str) -> dict[str, types.ModuleType]:
    """Take a package and its submodules out of `sys.modules`."""
    names = [n for n in sys.modules if n == package or n.startswith(f"{package}.")]
    return {name: sys.modules.pop(name) for name in names}


def _is_installed(package: str) -> bool:
    """Whether the package is there, by the finders of others."""
    if package in sys.modules:
        return True
    finders = [finder for finder in sys.meta_path if finder is not _finder]
    found = (getattr(finder, "find_spec", None) for finder in finders)
    return any(find is not None and find(package, None, None) is not None for find in found)


def _say(package: str, target: str) -> None:
    if logger.isEnabledFor(20):  # INFO
        why = ""
        if _put_aside[package] or _is_installed(package):
            why = (
                f": the one that is installed computes on CUDA devices, and the target is {target}"
            )
        logger.info("%s is torchdevice's substitute%s", package, why)

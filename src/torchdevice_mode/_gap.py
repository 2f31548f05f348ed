"""What `torchdevice gap` shows: torch's public surface, name by name, and what answers for it.

Nothing is listed by hand here: names come from the torch that is installed, answers from the
tables (surfaces, rules, seams, places). So a name that a torch release adds shows up as missing.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
import types
import warnings
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch

from . import __version__
from ._patches import Patch
from ._places import place
from ._registry import Rule, resolve_path
from ._rules import ROWS
from ._shims import ALL_PATCHES, SURFACES
from ._shims._surface import Row, Surface, held_by
from .errors import TorchDeviceError

__all__ = ["MISSING", "Entry", "collect", "counts", "markdown", "render"]

MISSING = "missing"
"""The state of a name that nothing answers for."""


class Entry(NamedTuple):
    """A public name of torch and its answer.

    Attributes:
        name: Dotted.
        state: One of the five states for a name of a surface; elsewhere `"rule"`, `"seam"`,
            `"below"` (what it calls has them), `"native"` or `"open"` (nothing answers yet).
            `"missing"` if no table has the name.
        reason: Why, in one line.
    """

    name: str
    state: str
    reason: str


# Public modules beside the surfaces in which something takes or returns a device.
_MODULES = (
    "torch",
    "torch.accelerator",
    "torch.amp",
    "torch.autograd",
    "torch.autograd.functional",
    "torch.autograd.graph",
    "torch.autograd.profiler",
    "torch.compiler",
    "torch.distributed",
    "torch.distributed.device_mesh",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch.distributions",
    "torch.export",
    "torch.fft",
    "torch.func",
    "torch.futures",
    "torch.fx",
    "torch.hub",
    "torch.jit",
    "torch.library",
    "torch.linalg",
    "torch.masked",
    "torch.multiprocessing",
    "torch.nested",
    "torch.nn",
    "torch.nn.attention",
    "torch.nn.attention.bias",
    "torch.nn.attention.flex_attention",
    "torch.nn.functional",
    "torch.nn.init",
    "torch.nn.parallel",
    "torch.nn.parameter",
    "torch.nn.utils",
    "torch.nn.utils.rnn",
    "torch.optim",
    "torch.optim.lr_scheduler",
    "torch.optim.swa_utils",
    "torch.package",
    "torch.profiler",
    "torch.random",
    "torch.serialization",
    "torch.signal.windows",
    "torch.sparse",
    "torch.special",
    "torch.storage",
    "torch.testing",
    "torch.utils.checkpoint",
    "torch.utils.data",
    "torch.utils.dlpack",
)
# Those whose functions are operators of the same name.
_OPERATORS = frozenset(
    ("torch", "torch.fft", "torch.linalg", "torch.nn.functional", "torch.sparse", "torch.special")
)
# Parameters that are a device, or ask for memory that belongs to one.
_PARAMETER = re.compile(
    r"(output_|target_)?devices?(_ids?|_types?|_index)?|map_location|pin_memory|use_cuda"
)
_RETURNED = re.compile(r"(torch\.)?device( \| None)?|Optional\[(torch\.)?device\]")
# Attributes of tensors that tell where they are.
_TELLS_DEVICE = re.compile(r"device|is_(cpu|cuda|mps|xpu|hpu|ipu|mtia|maia|meta|vulkan|xla)")


def collect(module: str | None = None) -> list[Entry]:
    """Every public name of the surfaces, and every other place that takes or returns a device.

    Args:
        module: Only names of this module of torch, such as `"torch.cuda.memory"`, and below it.

    Returns:
        The entries, sorted by name.

    Raises:
        TorchDeviceError: If the installed torch has no such module.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # looking at a deprecated name is not using it
        return _collect(module)


def _collect(module: str | None) -> list[Entry]:
    found: dict[str, Entry] = {}
    for surface in SURFACES:
        if module is None or _one_holds_the_other(module, surface.root):
            found.update((entry.name, entry) for entry in _surface_entries(surface))
    others = _MODULES if module is None or module in _MODULES else (*_MODULES, module)
    in_surface = tuple(surface.root for surface in SURFACES)
    for name in others:
        if not _is_below(name, in_surface) and (
            module is None or _one_holds_the_other(module, name)
        ):
            found.update((entry.name, entry) for entry in _place_entries(_import(name)))
    chosen = [
        entry for entry in found.values() if module is None or _is_below(entry.name, (module,))
    ]
    if module is not None and not chosen:
        _import(module)
    return sorted(chosen)


def _is_below(name: str, roots: Iterable[str]) -> bool:
    return any(name == root or name.startswith(root + ".") for root in roots)


def _one_holds_the_other(one: str, other: str) -> bool:
    return _is_below(one, (other,)) or _is_below(other, (one,))


def _import(name: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise TorchDeviceError(
            f"torch {torch.__version__} has no module {name!r}: give one such as "
            f"{SURFACES[0].root!r} or 'torch.nn'."
        ) from None


# --- surfaces -----------------------------------------------------------------------------------


def _surface_entries(surface: Surface) -> Iterator[Entry]:
    """The public names of a surface's modules, and the private ones that have rows."""
    rows, listed = surface.rows, set()
    for module in _public_modules(surface.root):
        path = module.__name__[len(surface.root) + 1 :]
        for name in _public_names(module):
            dotted = f"{path}.{name}" if path else name
            row = rows.get(dotted)
            if row is None and surface.plain(name) is getattr(module, name):
                row = rows.get(name)  # the root exports it, too
            listed.add(dotted)
            yield _row_entry(surface, dotted, row)
    for dotted in rows.keys() - listed:
        if surface.plain(dotted) is not None:
            yield _row_entry(surface, dotted, rows[dotted])


def _row_entry(surface: Surface, dotted: str, row: Row | None) -> Entry:
    name = f"{surface.root}.{dotted}"
    return Entry(name, MISSING, "") if row is None else Entry(name, row.state.value, row.reason)


def _public_modules(root: str) -> list[types.ModuleType]:
    package = importlib.import_module(root)
    for found in pkgutil.walk_packages(getattr(package, "__path__", ()), root + "."):
        if "._" not in found.name:
            importlib.import_module(found.name)
    return [
        module
        for name, module in sorted(sys.modules.items())
        if _is_below(name, (root,)) and "._" not in name
    ]


def _public_names(module: types.ModuleType) -> list[str]:
    """What a module exports; without `__all__`, what is defined in it or below it."""
    exported = getattr(module, "__all__", None)
    if exported is not None:
        held = {name: getattr(module, name) for name in exported if hasattr(module, name)}
        return sorted(n for n, value in held.items() if not isinstance(value, types.ModuleType))
    names = set(held_by(module))
    if type(module) is not types.ModuleType:
        names |= set(vars(type(module)))
    return sorted(
        name
        for name in names
        if not name.startswith("_") and name != "m" and _is_defined_in(module, name)
    )


def _is_defined_in(module: types.ModuleType, name: str) -> bool:
    value = getattr(module, name)
    if isinstance(value, (type, types.FunctionType)):
        return _is_below(value.__module__ or "", (module.__name__,))
    imported_from = getattr(type(value), "__module__", "").partition(".")[0]
    return not isinstance(value, types.ModuleType) and imported_from not in {"typing", "__future__"}


# --- other places -------------------------------------------------------------------------------


def _place_entries(module: types.ModuleType) -> Iterator[Entry]:
    for name, value, owner in _device_users(module):
        yield _place_entry(name, value, owner)


def _place_entry(name: str, value: Any, owner: Any) -> Entry:
    rule = _rules().get(value) if isinstance(value, Hashable) else None
    if rule is not None:
        return Entry(name, "rule", rule.reason)
    keys = [(id(owner), name.rpartition(".")[2])]
    keys += [(id(value), attribute) for attribute in ("__init__", "__new__", "__enter__")]
    seam = next((_seams()[key] for key in keys if key in _seams()), None)
    if seam is not None:
        return Entry(name, "seam", seam.reason)
    row = place(name)
    if row is not None:
        return Entry(name, row.state, row.reason)
    if isinstance(value, type) and issubclass(value, torch.nn.Module):
        return Entry(name, "below", "its parameters are made by torch.empty, which has a rule")
    return Entry(name, MISSING, "")


@cache
def _rules() -> dict[Any, Rule]:
    return {resolve_path(name): rule for rule in ROWS for name in rule.names()}


@cache
def _seams() -> dict[tuple[int, str], Patch]:
    """Patches by the identity of their owner, and their attribute."""
    return {
        (id(owner), patch.name): patch
        for patch in ALL_PATCHES
        if isinstance(patch, Patch) and (owner := patch.owner()) is not None
    }


def _device_users(module: types.ModuleType) -> Iterator[tuple[str, Any, Any]]:
    """Name, value and owner of what takes or returns a device in a module, and in its classes."""
    names = set(_public_names(module))
    by_schema = _functions_with_a_device() if module.__name__ in _OPERATORS else frozenset()
    if module is torch:
        names |= by_schema & set(vars(module))
        for name, value in _members(torch.Tensor):
            tells = _TELLS_DEVICE.fullmatch(name) is not None
            if tells or name in by_schema or _names_a_device(value):
                yield f"torch.Tensor.{name}", value, torch.Tensor
    for name in sorted(names):
        value = getattr(module, name)
        dotted = f"{module.__name__}.{name}"
        if _names_a_device(value) or name in by_schema:
            yield dotted, value, module
        if isinstance(value, type):
            for member, inner in vars(value).items():
                function = getattr(inner, "__func__", inner)  # of a class or static method
                if not member.startswith("_") and _names_a_device(function):
                    yield f"{dotted}.{member}", function, value


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    """Public methods of a class; attributes as what a mode is given for them."""
    for name in sorted({name for base in kind.__mro__[:-1] for name in vars(base)}):
        if not name.startswith("_"):
            value = getattr(kind, name)
            yield name, getattr(value, "__get__", value) if not callable(value) else value


@cache
def _functions_with_a_device() -> frozenset[str]:
    """Operators whose schema has a device, by the names that Python has for them."""
    names = {
        schema.name.removeprefix("aten::")
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("aten::")
        and any("Device" in str(argument.type) for argument in schema.arguments)
    }
    short = {name.removeprefix(space) for name in names for space in ("fft_", "special_")}
    return frozenset(name for name in names | short if not name.startswith("_"))


def _names_a_device(value: Any) -> bool:
    """Whether a signature has a parameter for a device, or gives one back."""
    if not callable(value):
        return False
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        # Written in C++: the first line of the docstring is the signature.
        documented = value.__doc__ if isinstance(value.__doc__, str) else ""
        head = documented.strip().partition("\n\n")[0]
        return re.search(r"\bdevice\s*[=,)]|\bpin_memory\s*=", head) is not None
    if any(_PARAMETER.fullmatch(name) for name in signature.parameters):
        return True
    returned = signature.return_annotation
    returned = returned if isinstance(returned, str) else getattr(returned, "__name__", "")
    return _RETURNED.fullmatch(returned) is not None


# --- text ---------------------------------------------------------------------------------------


def counts(entries: Iterable[Entry]) -> dict[str, dict[str, int]]:
    """How many names of each root are in each state.

    Args:
        entries: What `collect` gave.

    Returns:
        Root (a surface's module; `"torch"` for all other places) to state to count.
    """
    counted: dict[str, Counter[str]] = {}
    for entry in entries:
        counted.setdefault(_root_of(entry.name), Counter())[entry.state] += 1
    return {root: dict(sorted(states.items())) for root, states in sorted(counted.items())}


def _root_of(name: str) -> str:
    return next((s.root for s in SURFACES if _is_below(name, (s.root,))), "torch")


def render(entries: Sequence[Entry]) -> str:
    """The entries as a table, then the count of each state, then what is missing.

    Args:
        entries: What `collect` gave.

    Returns:
        Lines, without a newline at the end.
    """
    widths = [max((len(entry[column]) for entry in entries), default=0) for column in (0, 1)]
    lines = [
        f"{name:<{widths[0]}}  {state:<{widths[1]}}  {reason}".rstrip()
        for name, state, reason in entries
    ]
    lines += ["", f"torch {torch.__version__}, torchdevice {__version__}"]
    for root, states in counts(entries).items():
        listed = ", ".join(f"{count} {state}" for state, count in states.items())
        lines.append(f"{root}: {listed}")
    missing = [entry.name for entry in entries if entry.state == MISSING]
    lines.append(f"missing: {', '.join(missing) if missing else 'nothing'}")
    return "\n".join(lines)


_PAGE = """\
# Torch's public surface, name by name

Written by `torchdevice gap --markdown` for torch {version}; for the torch that you have, run
`torchdevice gap`. A name of a device's own module is *native* (torch's own is right), *mapped*
(to the target's counterpart), *emulated*, *stubbed* (does nothing, harmlessly) or *unsupported*
(raises `NotImplementedError`). Other places that take or return a device have a *rule* of the
function mode or a *seam*, are answered *below*, by what they call, are right as they are
(*native*), or are *open*: nothing answers yet."""


def markdown(entries: Iterable[Entry]) -> str:
    """The entries as a page of docs: for each root and state, reasons and the names they hold for.

    Args:
        entries: What `collect` gave.

    Returns:
        The page.
    """
    version = torch.__version__.partition("+")[0]
    lines = [_PAGE.format(version=version)]
    by_root: dict[str, dict[tuple[str, str], list[str]]] = {}
    for entry in entries:
        groups = by_root.setdefault(_root_of(entry.name), {})
        groups.setdefault((entry.state, entry.reason), []).append(entry.name)
    for root, groups in sorted(by_root.items()):
        lines += ["", f"## {root}", "", "| State | Why | Names |", "|---|---|---|"]
        for (state, reason), names in sorted(groups.items()):
            short = ", ".join(f"`{name.removeprefix(root + '.')}`" for name in names)
            lines.append(f"| {state} | {reason} | {short} |")
    return "\n".join(lines) + "\n"

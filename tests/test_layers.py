"""Imports point one way: a module imports only from layers below its own."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "torchdevice_mode"

LAYERS = [
    ["errors", "_variables", "_imports", "_kinds", "_mismatch", "_traced", "_packages", "_places"],
    ["_dtensors", "_printing", "_report_path", "_suggestions", "_words", "_writes"],
    ["_spec", "_override"],
    ["_values"],
    ["_settings"],
    ["_log", "_pyproject"],
    ["_command_settings"],
    ["_machine", "_ledger", "_caller", "_startup"],
    ["_kept", "_policy", "_children", "_report"],
    ["_reporting"],
    ["_context", "_dtypes", "_patches", "_probe", "_tracing"],
    ["_registry", "_active", "_origins"],
    ["_downcast"],
    ["_cpu_operator", "_out_of_memory", "_profile", "_strays", "_verify"],
    ["_on_cpu"],
    ["_dispatch_mode", "_fallback"],
    ["_rules"],
    ["_float64"],
    ["_adoption", "_compressed"],
    ["_recovery"],
    ["_function_mode"],
    ["_modes"],
    ["_cuda_source"],
    ["_shims"],
    ["_substitutes"],
    ["_session"],
    ["_api"],
    ["simulate", "_doctor", "_gap", "_info", "_run", "_summary", "_usage"],
    ["_end_of_run", "_tester"],
    ["cli", "pytest_plugin"],
    ["__init__"],
    ["__main__"],
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
# These know nothing of torch: the policy can be tested, and settings read, without it.
WITHOUT_TORCH = ["errors", "_spec", "_log", "_override", "_machine", "_settings", "_ledger"]
WITHOUT_TORCH += ["_caller", "_policy", "_patches", "_places", "_imports", "_mismatch"]
WITHOUT_TORCH += [
    "_packages",
    "_startup",
    "_children",
    "_suggestions",
    "_kinds",
    "_report",
    "_reporting",
]


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path):
    """First-level modules of the package that a file imports, at run time."""
    depth = len(path.relative_to(PACKAGE).parts)
    tree = ast.parse(path.read_text())
    type_checking = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in type_checking:
            continue
        if isinstance(node, ast.ImportFrom):
            if node.level == depth:
                if node.module:
                    yield node.module.partition(".")[0]
                else:
                    yield from (alias.name for alias in node.names)
            elif node.level == 0 and (node.module or "").startswith("torchdevice_mode."):
                yield node.module.split(".")[1]


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downward(path):
    own = module_of(path)
    assert own in LAYER, f"{own} has no layer"
    for imported in imported_modules(path):
        if imported in LAYER and imported != own:
            assert LAYER[imported] < LAYER[own], f"{own} imports {imported}"


def test_the_pure_core_and_the_package_do_not_import_torch():
    names = ", ".join(f"torchdevice_mode.{name}" for name in WITHOUT_TORCH)
    code = f"import sys, torchdevice, torchdevice_mode, torchdevice_mode.pytest_plugin, {names}\n"
    code += "assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_alias_gives_the_same_names():
    import torchdevice
    import torchdevice_mode

    for name in torchdevice_mode.__all__:
        assert getattr(torchdevice, name) is getattr(torchdevice_mode, name)
    with pytest.raises(AttributeError):
        torchdevice.nonsense

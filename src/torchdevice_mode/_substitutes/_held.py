"""Whether a substitute has a name, told from the table and from texts, without torch."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from ._table import MODULES

__all__ = ["has"]


def has(name: str) -> bool:
    """Whether the substitutes have a module, or a name of a module that is more than a stand-in.

    Args:
        name: Dotted, such as `"apex.optimizers"` or `"apex.optimizers.FusedAdam"`.

    Returns:
        Whether `import` or `from ... import` of it gives something that works.
    """
    if name in MODULES:
        return True
    module, _, last = name.rpartition(".")
    row = MODULES.get(module)
    if row is None or last in row.absent:
        return False
    if last in ("*", "__version__"):
        return True
    return last in row.names if row.names else any(last in _listed(one) for one in row.sources)


@cache
def _listed(source: str) -> frozenset[str]:
    """What a file of this folder exports."""
    text = Path(__file__).parent.joinpath(f"{source}.py").read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return frozenset(ast.literal_eval(node.value))
    return frozenset()

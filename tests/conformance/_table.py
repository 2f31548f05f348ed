"""The table in docs: how many entries were tried, how many are equal, and why others differ."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import torch

from ._reasons import REASONS

__all__ = ["table"]

_HEAD = """\
# Conformance

PyTorch's operator, module and optimizer databases, each entry run plain on the CPU and as CUDA
code redirected to {device}: same values, dtypes (float64
narrowed), shapes, on the target, gradients, and the same type of error for bad input. Written by
`nox -s conformance` with torch {torch} on {machine}.

| Entries | tried | equal | different | runs compared | errors compared |
|---|---:|---:|---:|---:|---:|
"""


def table(outcomes: Sequence[dict[str, Any]], *, simulated: bool = True) -> str:
    """The page.

    Args:
        outcomes: What `check` gave, of all entries.
        simulated: Whether the device was simulated, or is a Mac's own.

    Returns:
        The page as Markdown.
    """
    version = torch.__version__.partition("+")[0]
    device = "the [simulated device](simulated-accelerator.md)" if simulated else "a Mac's device"
    lines = [_HEAD.format(torch=version, machine=platform.system(), device=device)]
    for kind in ("operators", "modules", "optimizers"):
        chosen = [outcome for outcome in outcomes if _kind(outcome["name"]) == kind]
        equal = sum(not outcome["different"] for outcome in chosen)
        compared = sum(outcome["compared"] for outcome in chosen)
        errors = sum(outcome["errors"] for outcome in chosen)
        lines.append(
            f"| {kind} | {len(chosen)} | {equal} | {len(chosen) - equal} | {compared:,} | "
            f"{errors:,} |\n"
        )
    lines.append("\n## What differs\n\n| Entry | Check | Why |\n|---|---|---|\n")
    for outcome in sorted(outcomes, key=lambda o: o["name"]):
        for check, text in outcome["different"].items():
            why = REASONS.get((outcome["name"], check), f"not explained: {text}")
            lines.append(f"| {outcome['name']} | {check} | {why} |\n")
    return "".join(lines)


def _kind(name: str) -> str:
    if name.startswith("optim."):
        return "optimizers"
    is_module = name.startswith("nn.") and not name.startswith("nn.functional.")
    return "modules" if is_module else "operators"

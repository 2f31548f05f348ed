"""What `torchdevice info` shows: the machine, the target and why, and each kind of request."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from . import __version__, _session
from ._policy import choose_target, decide
from ._settings import Found, Settings

__all__ = ["REQUESTS", "collect", "render"]

REQUESTS: tuple[str | int | None, ...] = (
    None,
    "cpu",
    "cpu:0",
    "cpu:-1",
    "cuda",
    "cuda:1",
    0,
    "mps",
    "xpu",
    "npu",
    "meta",
    "nonsense",
)
"""One request of each kind."""


def collect(settings: Settings, found: Mapping[str, Found]) -> dict[str, Any]:
    """The facts, as plain values that JSON can hold.

    Args:
        settings: Those of the redirection.
        found: All settings, and where each was given.

    Returns:
        Versions, platform, accelerators, target, settings and decisions.

    Raises:
        TargetError: If the target asked for is not on this machine.
    """
    machine = _session.machine()
    target, why = choose_target(machine, settings)
    decisions = []
    for request in REQUESTS:
        decision = decide(request, machine, settings, False)
        decisions.append(
            {
                "request": request,
                "device": None if decision.device is None else str(decision.device),
                "redirected": decision.redirected,
                "reason": decision.reason,
            }
        )
    return {
        "torchdevice": __version__,
        "python": platform.python_version(),
        "torch": machine.torch_version,
        "platform": platform.platform(),
        "accelerators": [
            {
                "type": kind,
                "count": count,
                "name": _name(kind),
                "simulated": kind in machine.simulated,
            }
            for kind, count in machine.accelerators
        ],
        "target": {"device": str(target), "reason": why},
        "settings": {
            name: {"value": setting.value, "origin": setting.origin}
            for name, setting in found.items()
        },
        "decisions": decisions,
    }


def _name(kind: str) -> str:
    """The device's own name, where torch tells one."""
    if kind == "cuda":
        return torch.cuda.get_device_name(0)
    if kind == "mps" and sys.platform == "darwin":
        return f"Apple {platform.processor()}"
    return ""


def render(facts: Mapping[str, Any]) -> str:
    """The facts as text.

    Args:
        facts: What `collect` gave.

    Returns:
        Several lines, without a newline at the end.
    """
    target = facts["target"]
    machine = [
        ("torchdevice", facts["torchdevice"]),
        ("python", facts["python"]),
        ("torch", facts["torch"]),
        ("platform", facts["platform"]),
        ("accelerators", ", ".join(map(_describe, facts["accelerators"])) or "none"),
        ("target", f"{target['device']} ({target['reason']})"),
    ]
    settings = [
        (name, _shown(setting["value"]), setting["origin"])
        for name, setting in facts["settings"].items()
    ]
    decisions = [
        (
            "no device" if row["request"] is None else repr(row["request"]),
            row["device"] or "unchanged",
            row["reason"],
        )
        for row in facts["decisions"]
    ]
    return "\n\n".join(
        (
            _table(machine),
            "settings\n" + _table(settings, indent=2),
            "request, what it gets, and why\n" + _table(decisions, indent=2),
        )
    )


def _shown(value: object) -> str:
    if value is None or value == ():
        return "not set"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _describe(accelerator: Mapping[str, Any]) -> str:
    notes = [accelerator["name"]] if accelerator["name"] else []
    if accelerator["count"] != 1:
        notes.append(f"{accelerator['count']} devices")
    if accelerator["simulated"]:
        notes.append("simulated on the CPU")
    return f"{accelerator['type']} ({', '.join(notes)})" if notes else str(accelerator["type"])


def _table(rows: Sequence[Sequence[str]], *, indent: int = 0) -> str:
    """Columns of the width of their longest cell; the last one as it is."""
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        lines.append(" " * indent + "  ".join([*cells, row[-1]]))
    return "\n".join(lines)

"""The report as JSON. `report.schema.json` describes it; the number changes with its meaning."""

from __future__ import annotations

import json
import pkgutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .._suggestions import ANY_DEVICE, Suggestion

if TYPE_CHECKING:
    from ._model import Report, ReportEntry

__all__ = ["SCHEMA_VERSION", "schema", "to_dict", "to_json"]

SCHEMA_VERSION = 1


def schema() -> dict[str, Any]:
    """The JSON Schema that `to_dict` keeps to."""
    data = pkgutil.get_data(__package__, "report.schema.json")
    assert data is not None
    found: dict[str, Any] = json.loads(data)
    return found


def to_dict(report: Report) -> dict[str, Any]:
    """What `Report.to_dict` gives."""
    return {
        "schema": "torchdevice-report",
        "version": SCHEMA_VERSION,
        "created": report.created,
        "program": {"command": list(report.program), "folder": report.folder},
        "versions": dict(report.versions),
        "machine": {**asdict(report.host), "accelerators": list(report.host.accelerators)},
        "target": {"device": report.target, "reason": report.target_reason},
        "settings": dict(report.settings),
        "totals": {kind: total._asdict() for kind, total in report.totals.items()},
        "entries": [_entry(entry) for entry in report.entries],
        "profiled": report.profiled,
        "operators": [asdict(operator) for operator in report.operators],
        "sources": {
            name: {"lines": len(source.lines), "changed": source.changed}
            for name, source in report.sources.items()
        },
        "device": ANY_DEVICE,
        "unreported": report.unreported,
    }


def to_json(report: Report, *, indent: int | None) -> str:
    """What `Report.to_json` gives."""
    return json.dumps(to_dict(report), indent=indent) + "\n"


def _entry(entry: ReportEntry) -> dict[str, Any]:
    # Not by `asdict`, which copies: there may be thousands.
    plain = {name: getattr(entry, name) for name in entry.__slots__}
    return {**plain, "suggestions": [_suggestion(row) for row in entry.suggestions]}


def _suggestion(row: Suggestion) -> dict[str, str]:
    return {"about": row.name, "instead": row.instead, "advice": row.advice}

"""The report: what the ledger counted, as an object, text, JSON, and a page for a browser."""

from __future__ import annotations

from ._model import Host, OperatorTime, Report, ReportEntry, Total, collect
from ._text import operators_as_text

__all__ = [
    "Host",
    "OperatorTime",
    "Report",
    "ReportEntry",
    "Total",
    "collect",
    "operators_as_text",
]

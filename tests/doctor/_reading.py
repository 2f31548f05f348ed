"""Reads a text as the doctor does, with a table of names that needs no torch."""

from __future__ import annotations

import textwrap

from torchdevice_mode._doctor._checks import Examined, examine
from torchdevice_mode._doctor._found import Answer

STATES = {
    "torch.cuda.synchronize": "mapped",
    "torch.cuda.is_available": "emulated",
    "torch.cuda.device_count": "emulated",
    "torch.cuda.get_device_capability": "emulated",
    "torch.cuda.nvtx.range_push": "stubbed",
    "torch.cuda.nccl.all_reduce": "unsupported",
    "torch.cuda.amp.autocast": "native",
    "torch.cuda.gone": "absent",
}


def look_up(name: str) -> Answer | None:
    state = STATES.get(name)
    return None if state is None else Answer(name, state, "for a reason")


def read(text: str, path: str = "program.py", **options) -> Examined:
    return examine(textwrap.dedent(text), path, look_up, **options)


def found(text: str, **options) -> list[tuple[int, str, str]]:
    """Line, rule and severity of each finding."""
    one = read(text, **options)
    return [(finding.line, finding.rule, finding.severity.word) for finding in one.findings]


def rules(text: str, **options) -> list[str]:
    """The rules of the findings, without those of names that are answered."""
    return [rule for _, rule, _ in found(text, **options) if rule not in ("torch-emulated",)]

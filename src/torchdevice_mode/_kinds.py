"""The kinds of events that the ledger counts: what each is called, and what it means."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["KINDS", "PROFILED", "Kind", "kind_of"]


class Kind(NamedTuple):
    """A kind of event.

    Attributes:
        one: Its name.
        several: Its name for several.
        meaning: One sentence for a reader who has never seen it.
    """

    one: str
    several: str
    meaning: str


# In the order in which they are told: the most expected first.
KINDS: dict[str, Kind] = {
    "redirection": Kind(
        "redirection", "redirections", "A request for a device that was given another one."
    ),
    "answer": Kind(
        "answered call",
        "answered calls",
        "A function of one device, such as torch.cuda, that was answered for the target.",
    ),
    "adoption": Kind(
        "adoption",
        "adoptions",
        "A tensor on the CPU that met tensors of the accelerator, and was copied there.",
    ),
    "fallback": Kind(
        "fallback",
        "fallbacks",
        "An operator that the target cannot do, which was computed on the CPU.",
    ),
    "downcast": Kind(
        "downcast", "downcasts", "float64 on a target without it, where float32 was used."
    ),
    "difference": Kind(
        "difference from the CPU",
        "differences from the CPU",
        "An operator whose result on the target is not the CPU's.",
    ),
    "synchronisation": Kind(
        "synchronisation",
        "synchronisations",
        "A call that waited until the device had done its work.",
    ),
    "stub": Kind("stubbed call", "stubbed calls", "A call that does nothing on this target."),
    "operator": Kind("operator call", "operator calls", "An operator that ran, and was timed."),
    "copy": Kind("copy", "copies", "A copy between devices, which was timed."),
}

PROFILED = frozenset({"operator", "copy"})
"""Kinds that are counted with `profile` alone: they are no events, but what the program does."""


def kind_of(name: str) -> Kind:
    """A kind by its name in the ledger; one that is not known is called as it is."""
    return KINDS.get(name) or Kind(name, f"{name}s", "")

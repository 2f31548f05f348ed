"""The tables of torch.mps and torch.backends.mps, and their decorators by short names."""

from __future__ import annotations

import sys

import torch.backends.mps
import torch.mps  # noqa: F401 - rows look up what it has

from ..._log import is_program_frame
from .._surface import StandIn, Surface, Trace

__all__ = [
    "BACKEND",
    "MPS",
    "StandIn",
    "Trace",
    "asked_by_program",
    "emulated",
    "mapped",
    "native",
    "plain",
    "redirection",
    "stubbed",
    "target",
    "unsupported",
]

_ROWS = f"{__package__}._rows"

MPS = Surface("torch.mps", "mps", later={"": _ROWS, "event": _ROWS, "profiler": _ROWS})
BACKEND = Surface("torch.backends.mps", "mps", later={"": _ROWS})

emulated = MPS.emulated
mapped = MPS.mapped
native = MPS.native
plain = MPS.plain
redirection = MPS.redirection
stubbed = MPS.stubbed
target = MPS.target
unsupported = MPS.unsupported

_DYNAMO_TRACES = "torch._dynamo.variables."


def asked_by_program() -> bool:
    """Whether the user's own files asked the row that calls this whether there is MPS.

    A program that asks wants to run on MPS, so it is told yes. Installed packages that know of
    MPS know of CUDA as well, and ask so as to leave features out where they find MPS: no mixed
    precision, no pinned memory, other kernels. They, and torch itself, get plain torch's answer
    and go on to ask for CUDA, which the target stands for with all its features.
    """
    frame = sys._getframe(3)
    # While Dynamo traces, who asks cannot be known, and the user is assumed.
    traced = str(frame.f_globals.get("__name__")).startswith(_DYNAMO_TRACES)
    return traced or is_program_frame(frame)

"""Reads the machine once: which accelerators torch can use here."""

from __future__ import annotations

import os
import sys

import torch

from ._machine import Machine

__all__ = ["probe"]

# Accelerators without float64; the error that MPS gives says that the framework lacks it.
_NO_FLOAT64 = frozenset({"mps"})


def probe() -> Machine:
    """The facts about this machine, from torch as it is (call outside of redirection).

    Returns:
        The machine, its accelerators in order of preference: MPS, CUDA, any other.
    """
    found: dict[str, int] = {}
    if torch.backends.mps.is_available():
        found["mps"] = 1
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.device_count()
    current = torch.accelerator.current_accelerator(check_available=True)
    if current is not None and current.type not in found:
        found[current.type] = torch.accelerator.device_count()
    return Machine(
        accelerators=tuple(found.items()),
        float64_unsupported=_NO_FLOAT64,
        simulated=_simulated(),
        platform=sys.platform,
        torch_version=str(torch.__version__),
        local_rank=_local_rank(),
    )


def _simulated() -> frozenset[str]:
    """The simulator is asked only if somebody has imported it."""
    simulate = sys.modules.get("torchdevice_mode.simulate")
    device = None if simulate is None else simulate.loaded_device()
    return frozenset() if device is None else frozenset({device})


def _local_rank() -> int | None:
    """As `torchrun` and other launchers tell it."""
    text = os.environ.get("LOCAL_RANK", "")
    return int(text) if text.isdecimal() else None

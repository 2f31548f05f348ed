"""How often an optimizer's step waits for the device: counted on the simulated accelerator, for
a CUDA program redirected and for the same program written for MPS."""

from __future__ import annotations

import multiprocessing
from contextlib import AbstractContextManager, nullcontext

import torch

import torchdevice
from torchdevice_mode import simulate

from ._measure import table

STEPS = 5
OPTIMIZERS = {
    "Adam": {},
    "Adam, `foreach=False`": {"foreach": False},
    "AdamW, `fused=True`": {"fused": True},
}


def _count(device: str, options: dict[str, bool], kind: str, under: AbstractContextManager[object]):  # type: ignore[no-untyped-def]
    with under:
        parameters = [torch.zeros(8, 8, device=device, requires_grad=True) for _ in range(4)]
        optimizer = getattr(torch.optim, kind.partition(",")[0])(parameters, **options)
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        with simulate.counting() as counts:
            for _ in range(STEPS):
                optimizer.step()
    return counts


def counted() -> list[dict[str, object]]:
    """Load the simulated device into this process, and count."""
    simulate.load()
    records: list[dict[str, object]] = []
    for name, options in OPTIMIZERS.items():
        native = _count("mps", options, name, nullcontext())
        redirected = _count("cuda", options, name, torchdevice.redirect(target="mps"))
        records.append(
            {
                "optimizer": name,
                "native": native.synchronizations / STEPS,
                "redirected": redirected.synchronizations / STEPS,
            }
        )
    return records


def measure(*, quick: bool = False) -> tuple[list[dict[str, object]], str]:
    """Run the benchmark, in a process of its own: the simulated device cannot be unloaded.

    Args:
        quick: Of no effect: it counts, and takes no time.

    Returns:
        A record per optimizer, and the table.
    """
    del quick
    with multiprocessing.get_context("spawn").Pool(1) as process:
        records = process.apply(counted)
    rows = [[str(r["optimizer"]), f"{r['native']:g}", f"{r['redirected']:g}"] for r in records]
    headings = ["Synchronisations a step", "written for MPS", "redirected CUDA program"]
    return records, table(headings, rows)

"""A training step of a small transformer: the CUDA program redirected, and the same program
written for the target."""

from __future__ import annotations

import multiprocessing
import statistics
import sys
from contextlib import nullcontext

import torch

import torchdevice
from torchdevice_mode import simulate

from ._measure import Variant, interleaved, ratio, table
from ._model import Size, Trainer


def timed(simulated: bool, rounds: int) -> dict[str, object]:
    """Time the two programs in turns, in this process.

    Args:
        simulated: Whether to load the simulated device first.
        rounds: How often each takes its turn of five steps.

    Raises:
        AssertionError: If the two programs did not compute the same.
    """
    if simulated:
        simulate.load()
    torch.set_num_threads(1)
    device = str(torchdevice.explain("cuda").device or "cuda:0")
    native = Trainer(device, nullcontext(), Size())
    redirected = Trainer("cuda", torchdevice.redirect(), Size()).start_like(native)
    seconds = interleaved(
        {
            "native": Variant(nullcontext, native.step),
            "redirected": Variant(torchdevice.redirect, redirected.step),
        },
        rounds=rounds,
        calls=5,
    )
    torch.testing.assert_close(redirected.losses, native.losses, rtol=1e-5, atol=0)
    return {
        "device": f"simulated {device}" if simulated else device,
        "native_ms": statistics.median(seconds["native"]) * 1e3,
        "ratio": ratio(seconds, "redirected", "native"),
    }


def measure(*, quick: bool = False) -> tuple[list[dict[str, object]], str]:
    """Run the benchmark on this machine's target, and on Linux on the simulated device.

    Args:
        quick: A tenth of the rounds, to see that it works.

    Returns:
        A record per device, and the table.
    """
    rounds = 3 if quick else 15
    records = [timed(simulate.is_loaded(), rounds)]
    if sys.platform == "linux" and not simulate.is_loaded():
        # In a process of its own: the simulated device cannot be unloaded.
        with multiprocessing.get_context("spawn").Pool(1) as process:
            records.append(process.apply(timed, (True, rounds)))
    rows = [[f"on {r['device']}", f"{r['native_ms']:.1f} ms", f"{r['ratio']:.3f}"] for r in records]
    headings = ["Training step, small transformer", "written for it", "redirected: of that"]
    return records, table(headings, rows)

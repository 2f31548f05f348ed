"""What a fallback and an adoption cost, beside the same by hand; and that others pay nothing."""

from __future__ import annotations

import multiprocessing
import statistics
import warnings
from contextlib import ExitStack, contextmanager, nullcontext

import torch

import torchdevice
from torchdevice_mode import simulate

from ._measure import Variant, interleaved, ratio, table

SIZES = (16, 256)


@contextmanager
def lacking(*operators: str):  # type: ignore[no-untyped-def]
    """The simulated device without operators, under redirection."""
    with ExitStack() as stack:
        stack.enter_context(simulate.missing_operators(operators))
        stack.enter_context(torchdevice.redirect(policy="explicit"))
        yield


def timed(rounds: int) -> list[dict[str, object]]:
    """Time on the simulated device, in this process.

    Args:
        rounds: How often each variant takes its turn.

    Returns:
        For each row of the table what was measured.
    """
    simulate.load("mps")
    warnings.simplefilter("ignore")
    redirected = torchdevice.redirect(policy="explicit")
    rows = []
    for size in SIZES:
        here = torch.rand(size, size)
        there = here.to("mps")
        index = torch.arange(size).to("mps")

        def by_hand(x: torch.Tensor = there, i: torch.Tensor = index) -> torch.Tensor:
            return torch.take(x.to("cpu"), i.to("cpu")).to("mps")

        def take(x: torch.Tensor = there, i: torch.Tensor = index) -> torch.Tensor:
            return torch.take(x, i)

        def meet(x: torch.Tensor = there, y: torch.Tensor = here) -> torch.Tensor:
            return x + y

        def move(x: torch.Tensor = there, y: torch.Tensor = here) -> torch.Tensor:
            return x + y.to("mps")

        def add(x: torch.Tensor = there) -> torch.Tensor:
            return x + x

        shape = f"{size} by {size}"
        comparisons = {
            f"fallback of `take`, {shape}": (
                Variant(nullcontext, by_hand),
                Variant(lambda: lacking("take"), take),
            ),
            f"the device's own `take`, {shape}": (
                Variant(nullcontext, by_hand),
                Variant(nullcontext, take),
            ),
            f"adoption in `x + y`, {shape}": (
                Variant(nullcontext, move),
                Variant(lambda: redirected, meet),
            ),
            f"`x + x` beside {len(simulate.REAL_GAPS_2_13)} fallbacks, {shape}": (
                Variant(lambda: redirected, add),
                Variant(lambda: lacking(*simulate.REAL_GAPS_2_13), add),
            ),
        }
        for name, (baseline, variant) in comparisons.items():
            seconds = interleaved(
                {"baseline": baseline, "variant": variant}, rounds=rounds, calls=100
            )
            rows.append(
                {
                    "name": name,
                    "microseconds": statistics.median(seconds["baseline"]) * 1e6,
                    "ratio": ratio(seconds, "variant", "baseline"),
                }
            )
    return rows


def measure(*, quick: bool = False) -> tuple[object, str]:
    """Time in a process of its own, which simulates the device.

    Args:
        quick: Few rounds.

    Returns:
        The figures, and the table.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        rows = pool.apply(timed, (3 if quick else 15,))
    shown = table(
        ["On simulated mps", "by hand, or without", "redirected: of that"],
        [[str(r["name"]), f"{r['microseconds']:.1f} µs", f"{r['ratio']:.2f}"] for r in rows],
    )
    return rows, shown

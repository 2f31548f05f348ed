"""What one call costs under redirection: beside plain torch, an empty function mode in Python,
`torch.set_default_device`, and a wrapper that replaces torch's functions.

The program under redirection asks for CUDA, as a CUDA program does; the baselines ask for the
device that it then gets.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch

import torchdevice

from ._measure import EmptyMode, Variant, added_ratio, default_device, interleaved, ratio, table
from ._patching import patched

Work = Callable[[], object]


def _works(device: str, asked: str) -> dict[str, tuple[Work, Work]]:
    """By name: the work as the baselines do it, and as the redirected program does it."""
    x = torch.ones(4, device=device)

    def same(work: Work) -> tuple[Work, Work]:
        return work, work

    return {
        "unruled: `x + x`": same(lambda: x + x),
        "unruled: `torch.add(x, x)`": same(lambda: torch.add(x, x)),
        "unruled: `x.reshape(2, 2)`": same(lambda: x.reshape(2, 2)),
        "attribute: `x.shape`": same(lambda: x.shape),
        "attribute: `x.device`": same(lambda: x.device),
        "factory: `torch.zeros(4)`": same(lambda: torch.zeros(4)),
        'factory: `torch.zeros(4, device="cuda")`': (
            lambda: torch.zeros(4, device=device),
            lambda: torch.zeros(4, device=asked),
        ),
        'no-op: `x.to("cuda")`': (lambda: x.to(device), lambda: x.to(asked)),
        "answer: `torch.cuda.is_available()`": same(
            lambda: torch.cuda.is_available()  # noqa: PLW0108 - looked up at each call
        ),
        '`torch.device("cuda")`': (lambda: torch.device(device), lambda: torch.device(asked)),
    }


def measure(*, quick: bool = False) -> tuple[list[dict[str, object]], str]:
    """Run the benchmark.

    Args:
        quick: A tenth of the rounds, to see that it works.

    Returns:
        A record per kind of call, and the table.
    """
    device = str(torchdevice.explain("cuda").device or "cuda:0")
    records: list[dict[str, object]] = []
    for name, (plainly, redirected) in _works(device, "cuda").items():
        variants = {
            "plain": Variant(nullcontext, plainly),
            "empty": Variant(EmptyMode, plainly),
            "default": Variant(partial(default_device, device), plainly),
            "patched": Variant(partial(patched, device), redirected),
            "ours": Variant(torchdevice.redirect, redirected),
        }
        if "torch.device(" in name:
            # Replacing the class would break `isinstance`, so this wrapper leaves it alone.
            del variants["patched"]
        seconds = interleaved(variants, rounds=4 if quick else 20, calls=1000)
        plain = statistics.median(seconds["plain"])
        records.append(
            {
                "call": name,
                "plain_us": plain * 1e6,
                **{
                    f"{variant}_adds_us": (statistics.median(times) - plain) * 1e6
                    for variant, times in seconds.items()
                    if variant != "plain"
                },
                "to_plain": ratio(seconds, "ours", "plain"),
                "to_empty_mode": ratio(seconds, "ours", "empty"),
                "added_to_default_device": added_ratio(seconds, "ours", "default", "plain"),
            }
        )
    headings = [
        f"Call, on {torch.device(device).type}",
        "plain torch",
        "a patching wrapper adds",
        "`set_default_device` adds",
        "an empty mode adds",
        "redirection adds",
        "redirected, of an empty mode",
        "added, of `set_default_device`",
    ]
    rows = [
        [
            str(record["call"]),
            f"{record['plain_us']:.2f} µs",
            *(
                f"{record[f'{variant}_adds_us']:.2f} µs" if f"{variant}_adds_us" in record else ""
                for variant in ("patched", "default", "empty", "ours")
            ),
            f"{record['to_empty_mode']:.2f}",
            # What no mode sees costs nothing there, and nothing is no baseline.
            "" if "answer" in str(record["call"]) else f"{record['added_to_default_device']:.2f}",
        ]
        for record in records
    ]
    return records, table(headings, rows)

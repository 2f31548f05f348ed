"""A compiled function with a request in it: called under redirection, and in plain torch.

Inductor needs a C++ compiler on the CPU.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import nullcontext

import torch

import torchdevice

from ._measure import EmptyMode, Variant, interleaved, ratio, table

# Each variant gets a function of its own: Dynamo keeps compiled code by code object.
_SOURCE = """
def layer(x):
    y = x * 2 + torch.ones(x.shape[-1], device={device!r})
    return torch.nn.functional.gelu(y @ weight) @ weight.T
"""


def _compiled(device: str, weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    names = {"torch": torch, "weight": weight}
    exec(_SOURCE.format(device=device), names)
    return torch.compile(names["layer"])


def measure(*, quick: bool = False) -> tuple[list[dict[str, object]], str]:
    """Run the benchmark.

    Args:
        quick: A tenth of the rounds, to see that it works.

    Returns:
        A record per size, and the table.
    """
    device = str(torchdevice.explain("cuda").device or "cuda:0")
    records: list[dict[str, object]] = []
    for rows, width, calls in ((1, 8, 1000), (64, 512, 30)):
        x = torch.ones(rows, width, device=device)
        weight = torch.ones(width, 4 * width, device=device)
        native, empty = _compiled(device, weight), _compiled(device, weight)
        redirected = _compiled("cuda", weight)
        seconds = interleaved(
            {
                "native": Variant(nullcontext, lambda f=native, x=x: f(x)),
                "empty": Variant(EmptyMode, lambda f=empty, x=x: f(x)),
                "redirected": Variant(torchdevice.redirect, lambda f=redirected, x=x: f(x)),
            },
            rounds=4 if quick else 20,
            calls=calls,
        )
        records.append(
            {
                "call": f"{rows} by {width}, on {torch.device(device).type}",
                "native_us": statistics.median(seconds["native"]) * 1e6,
                "ratio": ratio(seconds, "redirected", "native"),
                "to_empty_mode": ratio(seconds, "redirected", "empty"),
            }
        )
    headings = ["Compiled function", "written for it", "redirected: of that", "of an empty mode"]
    lines = [
        [
            str(r["call"]),
            f"{r['native_us']:.1f} µs",
            f"{r['ratio']:.3f}",
            f"{r['to_empty_mode']:.3f}",
        ]
        for r in records
    ]
    return records, table(headings, lines)

"""What redirection costs by the size of the model, eager and compiled, beside the alternatives."""

from __future__ import annotations

import statistics
import time
import warnings
from contextlib import nullcontext
from functools import partial

import torch

import torchdevice

from ._measure import Variant, default_device, interleaved, ratio, table
from ._model import Size, Trainer
from ._patching import patched

SIZES = {
    "tiny": Size(width=16, layers=1, batch=1, length=8),
    "small": Size(width=64, layers=2, batch=4, length=16),
    "medium": Size(width=128, layers=2, batch=16, length=64),
    "large": Size(width=256, layers=4, batch=16, length=64),
    "largest": Size(width=512, layers=4, batch=4, length=64),
}
COMPILED = ("tiny", "medium", "large")
SECONDS = 0.15  # that a turn takes


def _timed(device: str, size: Size, rounds: int, *, compiled: bool) -> dict[str, object]:
    torch.compiler.reset()
    native = Trainer(device, nullcontext(), size, compiled=compiled)
    default, patch = partial(default_device, device), partial(patched, device)
    programs = {
        "native": (nullcontext, native),
        "redirected": (torchdevice.redirect, _like(native, "cuda", torchdevice.redirect, compiled)),
        "default": (default, _like(native, device, default, compiled)),
    }
    if not compiled:
        # Where such a wrapper says that CUDA is there, Dynamo asks CUDA for its random state.
        programs["patched"] = (patch, _like(native, "cuda", patch, compiled))
    for under, program in programs.values():
        with under():
            program.step()  # and compile
    for _, program in programs.values():
        torch.testing.assert_close(program.losses[0], native.losses[0], rtol=1e-4, atol=0)
    start = time.perf_counter()
    native.step()
    calls = max(1, int(SECONDS / (time.perf_counter() - start)))
    seconds = interleaved(
        {name: Variant(under, program.step) for name, (under, program) in programs.items()},
        rounds=rounds,
        calls=calls,
    )
    return {
        "parameters": native.parameters,
        "compiled": compiled,
        "native_ms": statistics.median(seconds["native"]) * 1e3,
        **{name: ratio(seconds, name, "native") for name in programs if name != "native"},
    }


def _like(native: Trainer, device: str, under: object, compiled: bool) -> Trainer:
    program = Trainer(device, under(), native.size, compiled=compiled)  # type: ignore[operator]
    return program.start_like(native)


def measure(*, quick: bool = False) -> tuple[list[dict[str, object]], str]:
    """Run the benchmark on this machine's target.

    Args:
        quick: Few rounds, and not the largest, to see that it works.

    Returns:
        A record per size, and the table.
    """
    warnings.filterwarnings("ignore", message=".*TensorFloat32.*")
    device = str(torchdevice.explain("cuda").device or "cuda:0")
    names = [name for name in SIZES if not quick or name in ("tiny", "small")]
    runs = [(name, False) for name in names]
    runs += [(name, True) for name in names if name in COMPILED]
    records = []
    for name, compiled in runs:
        record = _timed(device, SIZES[name], 3 if quick else 12, compiled=compiled)
        records.append({"size": name, **record})
    kind = torch.device(device).type
    headings = [
        f"Training step, on {kind}",
        "parameters",
        "written for it",
        "redirected",
        "`set_default_device`",
        "patched",
    ]
    rows = [
        [
            f"{r['size']}{', compiled' if r['compiled'] else ''}",
            f"{r['parameters']:,}",
            f"{r['native_ms']:.2f} ms",
            *(f"{r[n]:.3f}" if n in r else "" for n in ("redirected", "default", "patched")),
        ]
        for r in records
    ]
    return records, table(headings, rows)

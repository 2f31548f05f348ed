"""Interleaved timing: every variant takes its turn in every round, so that all meet the same noise.

Machines differ and are shared; absolute times say little. A ratio within one round says how two
variants compare, and the median over rounds is what is reported.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch.overrides import TorchFunctionMode

from torchdevice_mode import simulate

Seconds = dict[str, list[float]]


@dataclass(frozen=True)
class Variant:
    """One way to run the same work.

    Attributes:
        under: Gives the context to run it in.
        work: What is timed.
    """

    under: Callable[[], AbstractContextManager[object]]
    work: Callable[[], object]


class EmptyMode(TorchFunctionMode):
    """The least that any function mode in Python costs."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return func(*args, **(kwargs or {}))


@contextmanager
def default_device(device: str):  # type: ignore[no-untyped-def]
    """`torch.set_default_device` for a block."""
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


def interleaved(variants: Mapping[str, Variant], *, rounds: int, calls: int) -> Seconds:
    """Time variants in turns.

    Args:
        variants: By name.
        rounds: How often each takes its turn.
        calls: Calls in a turn, after a tenth as many to warm up.

    Returns:
        For each variant the seconds per call, round by round.
    """
    seconds: Seconds = {name: [] for name in variants}
    clock = _clock()
    gc.freeze()  # what is there already need not be looked through after each round
    gc.disable()
    try:
        for _ in range(rounds):
            for name, variant in variants.items():
                with variant.under():
                    _time(variant.work, calls // 10 + 1, clock)
                    seconds[name].append(_time(variant.work, calls, clock))
            gc.collect()
    finally:
        gc.enable()
        gc.unfreeze()
    return seconds


def _clock() -> Callable[[], float]:
    """What time is read from: that of the processor, which other programs do not take, where
    nothing else computes; else that of the wall."""
    accelerator = torch.accelerator.current_accelerator()
    return time.perf_counter if accelerator and not simulate.is_loaded() else time.process_time


def _time(work: Callable[[], object], calls: int, clock: Callable[[], float]) -> float:
    turns = range(calls)
    start = clock()
    for _ in turns:
        work()
    return (clock() - start) / calls


def ratio(seconds: Seconds, name: str, baseline: str) -> float:
    """How long one variant takes as a multiple of another: the median over rounds."""
    pairs = zip(seconds[name], seconds[baseline], strict=True)
    return statistics.median(a / b for a, b in pairs)


def added_ratio(seconds: Seconds, name: str, baseline: str, plain: str) -> float:
    """What one variant adds to plain torch as a multiple of what another adds: of medians."""
    base = statistics.median(seconds[plain])
    added = statistics.median(seconds[name]) - base
    return added / (statistics.median(seconds[baseline]) - base)


def table(headings: list[str], rows: list[list[str]]) -> str:
    """Markdown, first column left-aligned, the others right-aligned."""
    widths = [max(len(line[i]) for line in [headings, *rows]) for i in range(len(headings))]

    def line(cells: list[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([line(headings), rule, *map(line, rows)])

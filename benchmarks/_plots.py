"""Pictures of the figures, as SVG by matplotlib, on a white ground of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["draw"]

Records = list[dict[str, Any]]
COLOURS = {
    "redirected": "#3367d6",
    "default": "#c98500",
    "patched": "#2e8b57",
    "empty": "#868e96",
}
NAMES = {
    "redirected": "torchdevice",
    "default": "torch.set_default_device",
    "patched": "a patching wrapper",
    "empty": "an empty TorchFunctionMode",
}


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Draw what there are figures for.

    Args:
        results: The records by benchmark, as `--json` writes them.
        folder: Where the pictures go.

    Returns:
        The files that were written.
    """
    import matplotlib as mpl

    mpl.use("svg")
    # The same figures give the same file; text stays text.
    mpl.rcParams.update({"svg.hashsalt": "torchdevice", "svg.fonttype": "none", "font.size": 10})
    mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, drawn in PLOTS.items():
        if name in results:
            figure = drawn(results[name], results["machine"])
            path = folder / f"{name.replace('_', '-')}.svg"
            figure.savefig(path, metadata={"Date": None}, facecolor="white", bbox_inches="tight")
            written.append(path)
    return written


def _overhead(records: Records, machine: str) -> Any:
    """Bars: what each adds to a call."""
    figure, axes = _figure(4.6)
    variants = {"patched": "patched", "default": "default", "empty": "empty", "ours": "redirected"}
    height = 0.8 / len(variants)
    for place, (key, name) in enumerate(variants.items()):
        rows = [(i, r[f"{key}_adds_us"]) for i, r in enumerate(records) if f"{key}_adds_us" in r]
        axes.barh(
            [i + (place - 1.5) * height for i, _ in rows],
            [value for _, value in rows],
            height,
            color=COLOURS[name],
            label=NAMES[name],
        )
    axes.set_yticks(range(len(records)), [str(r["call"]).replace("`", "") for r in records])
    axes.invert_yaxis()
    axes.set_xlabel("added to a call, µs")
    axes.set_title(machine, fontsize=9, color="#555555", loc="left")
    axes.legend(frameon=False, fontsize=9)
    return figure


def _model_size(records: Records, machine: str) -> Any:
    """Lines: what a training step costs, by how long it takes without."""
    figure, axes = _figure(3.6)
    eager = [r for r in records if not r["compiled"]]
    for name in ("redirected", "default", "patched"):
        _line(axes, eager, name, NAMES[name], "-o")
    compiled = [r for r in records if r["compiled"]]
    for name in ("redirected", "default"):
        _line(axes, compiled, name, f"{NAMES[name]}, compiled", "--s")
    axes.axhline(1, color="#868e96", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("a training step written for the device, ms")
    axes.set_ylabel("of that")
    for record in eager:
        axes.annotate(
            record["size"],
            (record["native_ms"], max(record[n] for n in ("redirected", "default", "patched"))),
            textcoords="offset points",
            xytext=(4, 6),
            fontsize=8,
            color="#555555",
        )
    axes.set_title(machine, fontsize=9, color="#555555", loc="left")
    axes.legend(frameon=False, fontsize=9)
    return figure


def _line(axes: Any, records: Records, name: str, label: str, style: str) -> None:
    if records:
        in_time = sorted(records, key=lambda record: record["native_ms"])
        times = [record["native_ms"] for record in in_time]
        ratios = [record[name] for record in in_time]
        axes.plot(times, ratios, style, color=COLOURS[name], label=label, markersize=4)


def _figure(height: float) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, height))
    return figure, figure.subplots()


PLOTS: dict[str, Callable[[Records, str], Any]] = {
    "overhead": _overhead,
    "model_size": _model_size,
}

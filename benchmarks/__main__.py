"""Run the benchmarks: `python -m benchmarks [NAME ...] [--quick] [--json FILE]`."""

from __future__ import annotations

import argparse
import importlib
import json
import platform
from pathlib import Path
from typing import Any

from ._pages import update
from ._plots import draw

NAMES = [
    "startup",
    "hook",
    "overhead",
    "compiled",
    "training_step",
    "model_size",
    "adam_synchronisations",
    "fallback",
]


def main() -> None:
    """Print a table for each benchmark that is named, or for all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--simulate", action="store_true", help="with the simulated MPS device")
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it works")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="add the figures to those in FILE, or make it"
    )
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw pictures there, as SVG")
    parser.add_argument(
        "--update",
        type=Path,
        metavar="PAGE",
        action="append",
        default=[],
        help="put the tables into this page, where comments say so",
    )
    parser.add_argument(
        "--from",
        dest="read",
        action="store_true",
        help="measure nothing: take the figures from the file of --json",
    )
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}: there are {', '.join(NAMES)}")
    if options.read and not (options.json and options.json.exists()):
        parser.error("--from takes the figures from a file: give one with --json")

    kept: dict[str, Any] = {"tables": {}}
    if options.json and options.json.exists():
        kept = json.loads(options.json.read_text())
    if not options.read:
        _measure(options, kept)
    for page in options.update:
        print(f"{page}: {', '.join(update(page, kept['tables'], kept['machine'])) or 'no tables'}")
    if options.plots:
        for path in draw(kept, options.plots):
            print(f"drawn: {path}")


def _measure(options: argparse.Namespace, kept: dict[str, Any]) -> None:
    if options.simulate:
        from torchdevice_mode import simulate

        simulate.load()
    import torch

    # One thread: the cost is Python's, and other threads would only add noise to it.
    torch.set_num_threads(1)
    machine = f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{machine}\n")
    kept["machine"] = machine
    for name in options.names or NAMES:
        module = importlib.import_module(f".{name}", __package__)
        kept[name], kept["tables"][name] = module.measure(quick=options.quick)
        print(kept["tables"][name], end="\n\n", flush=True)
        if options.json:
            options.json.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()

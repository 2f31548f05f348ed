"""Run the benchmarks: `python -m benchmarks [NAME ...] [--simulate] [--quick] [--json FILE]`."""

from __future__ import annotations

import argparse
import importlib
import json
import platform
from pathlib import Path

NAMES = [
    "startup",
    "hook",
    "overhead",
    "compiled",
    "training_step",
    "adam_synchronisations",
    "fallback",
]


def main() -> None:
    """Print a table for each benchmark that is named, or for all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--simulate", action="store_true", help="with the simulated MPS device")
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}: there are {', '.join(NAMES)}")

    if options.simulate:
        from torchdevice_mode import simulate

        simulate.load()
    import torch

    # One thread: the cost is Python's, and other threads would only add noise to it.
    torch.set_num_threads(1)
    machine = f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{machine}\n")
    results: dict[str, object] = {"machine": machine}
    for name in options.names or NAMES:
        results[name], shown = importlib.import_module(f".{name}", __package__).measure(
            quick=options.quick
        )
        print(shown, end="\n\n", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

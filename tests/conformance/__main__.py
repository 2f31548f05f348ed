"""Runs the databases in parts, shows how far it is, goes on where it stopped, writes the table.

On a Mac that is its own device, elsewhere the simulated one.

python -m tests.conformance --results FILE [--part 1/4] [--markdown docs/conformance.md]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from unittest import mock

import torch

from torchdevice_mode import simulate

from ._reasons import REASONS
from ._table import table

# Nothing may have asked torch for MPS before it is simulated, so torch is not asked.
SIMULATED = sys.platform != "darwin"
if SIMULATED:
    simulate.load("mps")
# Importing torch's databases freezes the flags of `torch.backends` in the whole process.
with mock.patch.object(torch.backends, "disable_global_flags", lambda: None):
    from ._checks import ENTRIES, Outcome, check


def main() -> int:
    """Run what is asked for and has not been run.

    Returns:
        1 if something differs without a reason that is known, else 0.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("conformance.jsonl"))
    parser.add_argument("--part", default="1/1", help="such as 2/4: the second quarter")
    parser.add_argument("--only", help="entries whose names contain this")
    parser.add_argument("--markdown", type=Path, help="write the table for docs there")
    options = parser.parse_args()
    done = read(options.results)
    part, parts = map(int, options.part.split("/"))
    names = [n for n in ENTRIES[part - 1 :: parts] if not options.only or options.only in n]
    run([name for name in names if name not in done], options.results, done)
    outcomes = [done[name] for name in names]
    if options.markdown:
        options.markdown.write_text(table(outcomes, simulated=SIMULATED), encoding="utf-8")
    unexplained = [
        o for o in outcomes if any((o["name"], c) not in REASONS for c in o["different"])
    ]
    for outcome in unexplained:
        print(f"{outcome['name']}: {outcome['different']}")
    equal = sum(not outcome["different"] for outcome in outcomes)
    print(f"{len(outcomes)} entries, {equal} equal, {len(unexplained)} different without a reason")
    return int(bool(unexplained))


def read(results: Path) -> dict[str, Outcome]:
    """What earlier runs wrote; a line that was cut off is run again."""
    done = {}
    if results.exists():
        for line in results.read_text(encoding="utf-8").splitlines():
            try:
                outcome = Outcome(json.loads(line))
            except json.JSONDecodeError:
                continue
            done[outcome["name"]] = outcome
    return done


def run(names: list[str], results: Path, done: dict[str, Outcome]) -> None:
    """Run entries, writing each down as it ends."""
    began = time.monotonic()
    with results.open("a", encoding="utf-8") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, name in enumerate(names, 1):
            outcome = done[name] = check(name)
            file.write(json.dumps(outcome) + "\n")
            file.flush()
            left = (time.monotonic() - began) / number * (len(names) - number)
            print(f"\r{number}/{len(names)}, {left / 60:.1f} min left: {name:<50.50}", end="")
    print()


if __name__ == "__main__":
    sys.exit(main())

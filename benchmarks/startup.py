"""What a program waits for before it starts: the import, and the first `enable()`.

CPU time of processes of their own, with compiled bytecode as an installed package has it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile

from ._measure import table

PROGRAM = """
import json, sys, time
start = time.process_time()
import torchdevice
imported = time.process_time() - start
assert "torch" not in sys.modules
start = time.process_time()
import torch
torch_imported = time.process_time() - start
start = time.process_time()
torchdevice.enable()
print(json.dumps([imported, torch_imported, time.process_time() - start]))
"""


def measure(*, quick: bool = False) -> tuple[list[dict[str, object]], str]:
    """Run the benchmark.

    Args:
        quick: Three processes instead of nine.

    Returns:
        One record, and the table.
    """
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        runs = []
        for _ in range(4 if quick else 10):
            output = subprocess.run(
                [sys.executable, "-c", PROGRAM],
                env=environment,
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            runs.append(json.loads(output))
    # The first run compiled the bytecode.
    imported, torch_imported, enabled = map(statistics.median, zip(*runs[1:], strict=True))
    record = {
        "import_ms": imported * 1e3,
        "enable_ms": enabled * 1e3,
        "import_torch_ms": torch_imported * 1e3,
    }
    headings = ["Start", "CPU time", "of `import torch`"]
    rows = [
        ["`import torchdevice`", f"{imported * 1e3:.1f} ms", f"{imported / torch_imported:.3f}"],
        ["first `enable()`", f"{enabled * 1e3:.1f} ms", f"{enabled / torch_imported:.3f}"],
    ]
    return [record], table(headings, rows)

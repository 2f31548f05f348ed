"""Makes docs/run.svg: what a terminal shows when a CUDA program is run, plainly and redirected.

`nox -s picture`, or `python docs/picture.py`. The commands are really run, in a copy of
examples/, and what they print is what is drawn. It needs `rich`, and a C++ compiler for
`--simulate mps`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

DOCS = Path(__file__).parent
PROGRAM = "train_char_transformer.py --steps 40 --sample-length 0"
COMMANDS = (
    # What plain torch says on a machine without CUDA, of which the last line tells all.
    f"python {PROGRAM} 2>&1 | tail -n 1",
    f"torchdevice run --simulate mps {PROGRAM}",
)
WIDTH = 120


def main() -> None:
    """Run the commands, and draw what they print."""
    # Recorded, and printed nowhere else.
    console = Console(width=WIDTH, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    folder = Path(tempfile.mkdtemp(), "examples")
    shutil.copytree(DOCS.parent / "examples", folder)
    for command in COMMANDS:
        done = subprocess.run(
            command,
            shell=True,
            cwd=folder,
            env={**os.environ, "COLUMNS": str(WIDTH), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=True,
        )
        console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
        console.print(Text.from_ansi(as_shown(done.stdout.decode())), soft_wrap=False)
    drawn = console.export_svg(title="a CUDA program, on a machine without CUDA")
    # The font of the machine that shows it: a picture loads nothing from elsewhere.
    drawn = re.sub(r"@font-face\s*{.*?}\s*", "", drawn, flags=re.DOTALL)
    drawn = drawn.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")
    shutil.rmtree(folder.parent)
    # Ends of lines without spaces, as files of this project have them.
    (DOCS / "run.svg").write_text("\n".join(line.rstrip() for line in drawn.splitlines()) + "\n")


def as_shown(output: str) -> str:
    """What stays on a terminal: of a line that is written over, as progress bars do, the last."""
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in output.split("\n")]
    return "\n".join(line for line in lines if line.strip())


if __name__ == "__main__":
    main()

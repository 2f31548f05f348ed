"""Runs programs by `torchdevice run`, each in a process of its own; prints how each ended.

Where processes can be forked, they are forked off one that has imported torch, which is what
takes longest.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def command(simulated: str, program: str) -> list[str]:
    options = ["--simulate", simulated] if simulated else ["--target", "cpu"]
    return ["run", "--quiet", *options, program]


def run_forked(arguments: list[str], folder: Path) -> tuple[int, str]:
    with tempfile.TemporaryFile("w+") as errors:
        child = os.fork()
        if child == 0:
            os.dup2(errors.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.chdir(folder)
            os._exit(run_here(arguments))
        _, status = os.waitpid(child, 0)
        errors.seek(0)
        return os.waitstatus_to_exitcode(status), errors.read()


def run_here(arguments: list[str]) -> int:
    from torchdevice_mode import cli

    code: object = 1
    try:
        code = cli.main(arguments)
    except SystemExit as error:
        code = error.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    atexit._run_exitfuncs()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


def run_anew(arguments: list[str], folder: Path) -> tuple[int, str]:
    words = [sys.executable, "-m", "torchdevice_mode", *arguments]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stderr


def main(simulated: str, *programs: str) -> None:
    if sys.platform == "linux":
        import torch.distributed
        import torch.utils.cpp_extension  # noqa: F401

        run = run_forked
    else:
        run = run_anew
    ended = {
        program: run(command(simulated, program), Path(program).parent) for program in programs
    }
    print(json.dumps(ended))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The doctor's verdict on small programs, and what they do when they are run under redirection."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torchdevice_mode._doctor._project import diagnose
from torchdevice_mode._doctor._states import States, built_for_cuda

_asked = os.environ.get("TORCHDEVICE_TEST_SIMULATED", "")
SIMULATED = {"1": "mps", "0": ""}.get(_asked, _asked)
PROGRAMS = Path(__file__).parent / "programs"
SIMPLE = sorted(PROGRAMS.glob("*.py"))
PROJECT = [PROGRAMS / "project" / name for name in ("train.py", "evaluate.py")]
TARGET = SIMULATED or "cpu"
# What a run says where it ends: the last line of the program in the traceback.
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')

pytestmark = [
    pytest.mark.skipif(
        SIMULATED == "cuda" or torch.cuda.is_available(), reason="the programs are for CUDA"
    )
]


def told(program: Path) -> str:
    """The verdict that a program's first line says."""
    return program.read_text().partition("\n")[0].removeprefix("# verdict: ")


def verdict_of_doctor(paths: list[Path], program: Path) -> str:
    build = TARGET == "cpu" and built_for_cuda()
    diagnosis = diagnose(paths, States(TARGET), target=TARGET, cuda_build=build)
    judged = {one.path: one for one in diagnosis.programs}[str(program)]
    if judged.verdict != "will fail":
        return judged.verdict
    place = f" at {judged.finding.line}"
    if judged.finding.path != judged.path:
        place += f" of {Path(judged.finding.path).relative_to(program.parent)}"
    return judged.verdict + place


@pytest.fixture(scope="module")
def runs() -> dict[str, tuple[int, str]]:
    """Exit code and stderr of every program, each run in a process of its own."""
    programs = [str(path) for path in (*SIMPLE, *PROJECT)]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("_run_all.py")), SIMULATED, *programs],
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def place_where_it_ends(program: Path, code: int, stderr: str) -> str | None:
    """The line of its own where a program failed; None where it did not."""
    if code == 0:
        return None
    if "Traceback" not in stderr:
        return "its own end"  # SystemExit tells no line
    frames = [
        (Path(file), line)
        for file, line in _FRAME.findall(stderr)
        if Path(file).is_relative_to(PROGRAMS)
    ]
    file, line = frames[-1]
    return line if file == program else f"{line} of {file.relative_to(program.parent)}"


def check(paths: list[Path], program: Path, runs: dict[str, tuple[int, str]]) -> None:
    expected = told(program)
    assert verdict_of_doctor(paths, program) == expected
    ended = place_where_it_ends(program, *runs[str(program)])
    if expected.startswith("will fail at "):
        assert ended in (expected.removeprefix("will fail at "), "its own end")
    else:
        assert ended is None


@pytest.mark.parametrize("program", SIMPLE, ids=lambda path: path.stem)
def test_a_program_does_what_the_doctor_said(program, runs):
    if program.stem in ("reads_the_version", "does_without") and torch.version.cuda is not None:
        pytest.skip("this torch was built for CUDA")
    check([program], program, runs)


@pytest.mark.parametrize("program", PROJECT, ids=lambda path: path.stem)
def test_a_program_of_a_project_does_what_the_doctor_said(program, runs):
    check([PROGRAMS / "project"], program, runs)

"""The public CI: it does what the project offers, in time limits and with few rights."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILE = ROOT / ".github" / "workflows" / "ci.yml"

yaml = pytest.importorskip("yaml")
if not FILE.exists():
    pytest.skip("there is no workflow beside these tests", allow_module_level=True)

WORKFLOW = yaml.safe_load(FILE.read_text())
JOBS = WORKFLOW["jobs"]
STEPS = [step for job in JOBS.values() for step in job["steps"]]


def test_the_workflow_may_read_the_code_and_nothing_else():
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in JOBS.values())
    checkouts = [step for step in STEPS if step.get("uses", "").startswith("actions/checkout@")]
    assert len(checkouts) == len(JOBS)
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


@pytest.mark.parametrize("job", JOBS)
def test_a_job_has_a_time_limit_and_a_runner_of_a_version(job):
    assert 0 < JOBS[job]["timeout-minutes"] <= 120
    assert "latest" not in JOBS[job]["runs-on"]


@pytest.mark.parametrize("step", [step["uses"] for step in STEPS if "uses" in step])
def test_actions_are_of_github_itself_and_of_a_version(step):
    assert re.fullmatch(r"actions/[a-z-]+@v\d+", step)


def test_every_python_that_the_package_is_for_is_tested():
    classified = re.findall(
        r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text()
    )
    assert JOBS["tests"]["strategy"]["matrix"]["python"] == classified


def test_the_torch_of_the_constraints_is_tested():
    """Also where the workflow has written another of its versions into that file."""
    pinned = re.findall(r"^torch==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    matrix = JOBS["tests"]["strategy"]["matrix"]
    tested = [*matrix["torch"], *(row["torch"] for row in matrix["include"])]
    assert len(pinned) == 1 and pinned[0] in tested


def test_the_sessions_that_are_run_exist():
    offered = set(
        re.findall(r"^@nox\.session.*\ndef (\w+)", (ROOT / "noxfile.py").read_text(), re.M)
    )
    matrix = JOBS["check"]["strategy"]["matrix"]["session"]
    run = [
        session for step in STEPS for session in re.findall(r"nox.* -s (\w+)", step.get("run", ""))
    ]
    assert set(run) | set(matrix) <= offered
    assert {"lint", "typecheck", "docs", "tests", "build", "conformance"} <= set(run) | set(matrix)

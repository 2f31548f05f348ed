"""Sessions for users and developers: `nox -s demo`, `nox -s tests`, `nox --list`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "typecheck", "tests"]

PROJECT = nox.project.load_toml("pyproject.toml")
SIMULATED = {"TORCHDEVICE_TEST_SIMULATED": "1"}
# The other way: programs for MPS on a machine with CUDA.
SIMULATED_CUDA = {"TORCHDEVICE_TEST_SIMULATED": "cuda"}
CUDA_TESTS = [
    "tests/simulate/test_cuda_device.py",
    "tests/shims",
    "tests/test_mps_example.py",
    "tests/test_function_mode.py",
    "tests/test_lifecycle.py",
    "tests/test_policy.py",
    "tests/test_threads.py",
    "tests/test_adoption.py",
    "tests/test_float64.py",
]

# Files whose tests put no tensor on a device, or start programs that are told which one to take,
# so that once is enough.
WITHOUT_A_DEVICE = [
    "tests/tester",
    "tests/report",
    "tests/typing",
    "tests/doctor/test_any_text.py",
    "tests/doctor/test_checks.py",
    "tests/doctor/test_command.py",
    "tests/doctor/test_output.py",
    "tests/doctor/test_reader.py",
    "tests/doctor/test_requirements.py",
    "tests/doctor/test_rules.py",
    "tests/doctor/test_sources.py",
    "tests/doctor/test_tree.py",
    "tests/doctor/test_verdict.py",
    "tests/substitutes/test_programs.py",
    "tests/test_benchmarks.py",
    "tests/test_children.py",
    "tests/test_cli.py",
    "tests/test_documentation.py",
    "tests/test_imports.py",
    "tests/test_info.py",
    "tests/test_layers.py",
    "tests/test_log.py",
    "tests/test_mismatch.py",
    "tests/test_patches.py",
    "tests/test_policy.py",
    "tests/test_pyproject.py",
    "tests/test_pytest_plugin.py",
    "tests/test_run.py",
    "tests/test_settings.py",
    "tests/test_spec.py",
    "tests/test_startup.py",
    "tests/test_suggestions.py",
    "tests/test_summary.py",
    "tests/test_versions.py",
    "tests/test_workflow.py",
]


def install(session: nox.Session, *groups: str) -> None:
    """The package, editable, and dependency groups, at the versions of the constraints file."""
    requirements = nox.project.dependency_groups(PROJECT, *groups) if groups else ()
    session.install("-q", "-c", "constraints.txt", "-e", ".", *requirements)


@nox.session
def demo(session: nox.Session) -> None:
    """Train the CUDA example program, unmodified, on whatever this machine has."""
    install(session, "demo")
    session.run("torchdevice", "info")
    arguments = session.posargs or ["examples/train_char_transformer.py"]
    # Threads that wait for work sleep, so that other programs on the machine slow it less.
    session.run("torchdevice", "run", *arguments, env={"OMP_WAIT_POLICY": "passive"})


@nox.session
def tests(session: nox.Session) -> None:
    """The tests: on this machine as it is, then on the simulated accelerator."""
    install(session, "tests")
    # Each worker of pytest-xdist is one process; torch's own threads would fight for the cores.
    environment = {"OMP_NUM_THREADS": "1"}
    parallel = ["-n", str(os.cpu_count() or 1), "--dist", "loadfile"]
    if session.posargs:
        session.run("pytest", *session.posargs, env=environment)
        return
    session.run("pytest", *parallel, env=environment)
    ignored = [f"--ignore={path}" for path in WITHOUT_A_DEVICE]
    session.run("pytest", *parallel, *ignored, env=environment | SIMULATED)
    session.run("pytest", *parallel, *CUDA_TESTS, env=environment | SIMULATED_CUDA)


@nox.session
def conformance(session: nox.Session) -> None:
    """PyTorch's databases as redirected CUDA code; `-- --part 1/8` for a part; can be resumed."""
    install(session, "tests")
    arguments = ["--results", "conformance.jsonl", *session.posargs]
    session.run("python", "-m", "tests.conformance", *arguments, env={"OMP_NUM_THREADS": "1"})


@nox.session
def lint(session: nox.Session) -> None:
    """Style and common mistakes, by ruff."""
    session.install("-q", *nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typecheck(session: nox.Session) -> None:
    """Types of the package, by mypy in strict mode."""
    install(session, "typecheck")
    session.run("mypy")
    # As a program sees it that uses the package.
    program = ["--strict", "--config-file=", "--follow-imports=silent", "tests/typing/program.py"]
    session.run("mypy", *program)


@nox.session
def docs(session: nox.Session) -> None:
    """The pages of docs/ as a site, in build/docs; warnings, such as broken links, are errors."""
    session.install("-q", *nox.project.dependency_groups(PROJECT, "docs"))
    options = ["-q", "-n", "-W", "--keep-going", "-d", "build/doctrees"]
    session.run("sphinx-build", *options, *session.posargs, "docs", "build/docs")
    session.log("See build/docs/index.html; it needs no server and no network.")


@nox.session(default=False)
def picture(session: nox.Session) -> None:
    """docs/run.svg: what a terminal shows, of a program that is really run."""
    install(session, "picture")
    session.run("python", "docs/picture.py")


@nox.session
def bench(session: nox.Session) -> None:
    """Everything that README says about speed, measured here against its baselines: see build/."""
    install(session, "bench")
    Path("build").mkdir(exist_ok=True)
    kept = ["--json", "build/benchmarks.json", "--plots", "build/benchmarks"]
    session.run("python", "-m", "benchmarks", *kept, *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Source distribution and wheel in dist/, checked; then `installed` tries them."""
    session.install("-q", *nox.project.dependency_groups(PROJECT, "build"))
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", "dist")
    wheel, source = _built()
    session.run("twine", "check", "--strict", wheel, source)
    session.run("check-wheel-contents", wheel)
    session.notify("installed")


# What the source distribution's own tests are tried on; `nox -s installed -- FILES` takes others.
TESTS_OF_SOURCE = [
    *("tests/test_policy.py", "tests/test_spec.py", "tests/test_layers.py"),
    *("tests/test_function_mode.py", "tests/test_lifecycle.py", "tests/test_workflow.py"),
]


@nox.session(reuse_venv=False, default=False)
def installed(session: nox.Session) -> None:
    """What is in dist/, in a clean environment, used in each way that a user has."""
    wheel, source = _built()
    constraints = str(Path("constraints.txt").resolve())
    session.install("-q", "-c", constraints, wheel)
    session.run("python", "-m", "pip", "check")
    folder = Path(session.create_tmp()).resolve()
    shutil.rmtree(folder / "source", ignore_errors=True)
    shutil.unpack_archive(source, folder / "source")
    (unpacked,) = (folder / "source").iterdir()
    session.chdir(folder)  # away from the sources, so that only what is installed is found

    # With nothing but what the package itself needs.
    asks = "import torch; print(torch.ones(1, device='cuda').device)"
    program = folder / "program.py"
    program.write_text(f"{asks}\n")
    session.run("torchdevice", "--version")
    session.run("torchdevice", "info")
    session.run("torchdevice", "run", str(program))
    session.run("python", "-m", "torchdevice", "run", "-c", asks)
    session.run("python", "-c", asks, env={"ACTIVATE_TORCH_DEVICE": "1"})
    alias = "import torchdevice, torchdevice_mode as m; assert torchdevice.redirect is m.redirect"
    session.run("python", "-c", alias)

    # The plugin, the types, and the tests of the source distribution.
    tools = nox.project.dependency_groups(PROJECT, "installed")
    session.install("-q", "-c", constraints, *tools)
    test = folder / "test_program.py"
    test.write_text(f"{asks}\ndef test_cuda(): assert torch.cuda.is_available()\n")
    session.run("pytest", "-q", str(test), "--torchdevice")
    types = unpacked / "tests" / "typing"
    session.run("mypy", "--strict", "--config-file=", str(types / "program.py"))
    session.run("pyright", "--project", str(types), "--pythonpath", _python(session))
    for package in ("torchdevice", "torchdevice_mode"):
        session.run("pyright", "--verifytypes", package, "--ignoreexternal")
    session.chdir(unpacked)
    session.run("pytest", "-q", *(session.posargs or TESTS_OF_SOURCE))


def _built() -> tuple[str, str]:
    """The wheel and the source distribution in dist/."""
    (wheel,), (source,) = (Path("dist").glob(kind) for kind in ("*.whl", "*.tar.gz"))
    return str(wheel.resolve()), str(source.resolve())


def _python(session: nox.Session) -> str:
    return str(Path(session.bin) / "python")

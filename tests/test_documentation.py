"""README and docs/: every example runs, every link leads somewhere, and nothing is left out."""

from __future__ import annotations

import inspect
import itertools
import json
import os
import re
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
from conftest import SIMULATED
from installation import Installation, environment, wheel
from markdown import KINDS, PAGES, ROOT, Block, anchors, blocks, links, prose

import torchdevice_mode
from torchdevice_mode import cli, errors
from torchdevice_mode._settings import OF_REDIRECTION

BLOCKS = [block for page in PAGES for block in blocks(page)]
SHELL = ("sh", "console")
LANGUAGES = {"python", *SHELL, "text", "json", "toml", "yaml", "ini", "diff"}
SOURCES = sorted((ROOT / "src" / "torchdevice_mode").rglob("*.py"))


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def of_kind(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


# --- Python ----------------------------------------------------------------------------------

PYTHON = [block for block in of_kind("python") if "pytest" not in block.told]
PYTHON_PAGES = sorted({block.page for block in PYTHON})


def run_in_turn(page: Path) -> None:
    """Run the Python of a page as its reader would: one block after the other, in one namespace."""
    namespace: dict[str, object] = {"__name__": "docs." + page.stem}
    for block in (block for block in PYTHON if block.page == page):
        code = compile(block.shown_at_its_line, str(page), "exec")
        if "not run" in block.told:
            continue
        exec(compile(textwrap.dedent(block.told.get("first", "")), "<first>", "exec"), namespace)
        expected = block.told.get("raises")
        try:
            exec(code, namespace)
        except Exception as error:
            if type(error).__name__ != expected:
                raise
        else:
            assert expected is None, f"{block.place} did not raise {expected}"


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=name)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    apart = any("own process" in block.told for block in PYTHON if block.page == page)
    if not apart:
        monkeypatch.chdir(tmp_path)
        run_in_turn(page)
        return
    if SIMULATED:
        pytest.skip("runs in a process of its own, the same in every session")
    source = f"from test_documentation import run_in_turn, Path; run_in_turn(Path({str(page)!r}))"
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "src")])
    done = subprocess.run(
        [sys.executable, "-c", source],
        env=environment(PYTHONPATH=path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
    )
    if "SimulatorError" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])  # no compiler here
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "block", [b for b in of_kind("python") if "pytest" in b.told], ids=lambda b: b.place
)
def test_an_example_of_a_test_passes(block, user, tmp_path):
    first = textwrap.dedent(block.told.get("first", ""))
    (tmp_path / "test_example.py").write_text(f"{first}\n{block.code}")
    done = user.bash(f"pytest -q {block.told['pytest']} test_example.py", tmp_path)
    if "SimulatorError" in done.stdout:
        pytest.skip("the simulated device cannot be built here")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


# --- commands --------------------------------------------------------------------------------

# What the reader of the pages is told to run is here to be run.
FILES = {
    "train.py": """
        import sys
        import torch
        from torch import nn

        def train(steps=3):
            model = nn.Linear(4, 1).cuda()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for _ in range(steps):
                x = torch.randn(8, 4, device="cuda")
                loss = model(x).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            torch.save(model.state_dict(), "model.pt")
            return loss.item()

        if __name__ == "__main__":
            print("loss", train() < 10)
    """,
    "train_mps.py": """
        import torch
        assert torch.backends.mps.is_available()
        x = torch.ones(3, device="mps")
        torch.mps.synchronize()
        print(x.sum().item())
    """,
    "test_model.py": """
        import torch
        model = torch.nn.Linear(4, 1).to("cuda" if torch.cuda.is_available() else "cpu")
        def test_the_model_is_on_the_accelerator():
            assert model.weight.is_cuda
        def test_a_step_changes_the_weights():
            before = model.weight.clone()
            model(torch.ones(2, 4, device="cuda")).sum().backward()
            torch.optim.SGD(model.parameters(), lr=1.0).step()
            assert not torch.equal(before, model.weight)
    """,
}


class User:
    """Someone who installed the package, and has the files that the pages speak of."""

    def __init__(self, folder: Path, wheel_folder: Path) -> None:
        self._folder = folder
        self._done: dict[str, subprocess.CompletedProcess[str]] = {}
        self._installation = Installation(folder)
        with zipfile.ZipFile(wheel(wheel_folder, editable=False)) as archive:
            archive.extractall(self._installation.packages)
        self._commands = folder / "commands"
        self._commands.mkdir()
        modules = {
            "torchdevice": "torchdevice",
            "pytest": "pytest",
            "torchrun": "torch.distributed.run",
        }
        for command, words in {"python": "", **{c: f" -m {m}" for c, m in modules.items()}}.items():
            script = self._commands / command
            script.write_text(f'#!/bin/sh\nexec "{self._installation.python}"{words} "$@"\n')
            script.chmod(0o755)

    def follow(self, command: str) -> subprocess.CompletedProcess[str]:
        """Do what a page says, each command once: what follows `train.py` is that program's own."""
        same = re.sub(r"(\btrain\.py) .*", r"\1", command)
        if same not in self._done:
            folder = self._folder / f"command {len(self._done)}"
            folder.mkdir()
            for file, source in FILES.items():
                (folder / file).write_text(textwrap.dedent(source).lstrip())
            self._done[same] = self.bash(command, folder)
        return self._done[same]

    def bash(self, script: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run commands; the output is that of both streams."""
        path = f"{self._commands}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            env=environment(PATH=path, OMP_NUM_THREADS="1", COLUMNS="200"),
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    if SIMULATED:
        pytest.skip("commands run in processes of their own, the same in every session")
    return User(tmp_path_factory.mktemp("user"), tmp_path_factory.mktemp("wheel"))


def commands(block: Block) -> list[tuple[str, list[str]]]:
    """The commands of a block, each with the lines of output that are shown below it."""
    if block.language == "sh":
        lines = block.code.replace("\\\n", " ").splitlines()
        return [(re.sub(r"\s+# .*", "", line), []) for line in lines if line.strip()]
    found: list[tuple[str, list[str]]] = []
    for line in block.code.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def same_but_for_numbers(shown: str) -> str:
    """What matches a line of output: figures may differ, and `...` is anything."""
    pattern = re.sub(r"\d[\d,.]*", "\0", re.sub(r"\s+", " ", shown.strip()))
    return re.escape(pattern).replace("\0", r"\d[\d,.]*").replace(r"\.\.\.", ".*")


@pytest.mark.parametrize("block", of_kind(*SHELL), ids=lambda block: block.place)
def test_commands_do_what_the_page_shows(block, user):
    script = "\n".join(command for command, _ in commands(block))
    subprocess.run(["bash", "-n", "-c", script], check=True)
    if "not run" in block.told:
        pytest.skip(block.told["not run"])
    for command, shown in commands(block):
        done = user.follow(command)
        if "torchdevice: error: The simulated" in done.stdout:
            pytest.skip(done.stdout.strip())  # no compiler here
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        printed = re.sub(r"[^\S\n]+", " ", done.stdout)
        lines = [line.strip() for line in printed.splitlines()]
        for line in shown:
            wanted = re.compile(same_but_for_numbers(line))
            assert line.strip() in ("", "...") or any(wanted.fullmatch(got) for got in lines), (
                f"{block.place}: {command} did not print {line!r}, but\n{done.stdout}"
            )


# --- pages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_and_headings_that_exist(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        to = (page.parent / path).resolve() if path else page
        assert to.exists(), f"{name(page)} links to {link}, which does not exist"
        assert not anchor or anchor in anchors(to), f"{name(page)} links to {link}: no such heading"


def test_the_index_lists_every_page():
    listed = {link for link in links(ROOT / "docs" / "index.md") if link.endswith(".md")}
    assert listed == {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_a_block_is_of_a_language_that_is_tested(block):
    assert block.language in LANGUAGES
    if block.language == "json":
        json.loads(block.code)
    if block.language == "toml":
        pytest.importorskip("tomllib").loads(block.code)
    for kind in ("not run", "raises", "pytest"):
        assert block.told.get(kind, kind), f"{block.place}: say why, or what, behind `{kind}`"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_comments_that_tell_how_to_test_are_read(page):
    """A comment that stands elsewhere than above a block would be without effect."""
    written = len(re.findall(rf"<!--\s*(?:{'|'.join(KINDS)})\b", page.read_text()))
    assert written == sum(len(block.told) for block in blocks(page))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_code_stands_between_fences(page):
    """Where its language is told, and where it is tested."""
    lines = prose(page).splitlines()
    indented = [
        line for above, line in itertools.pairwise(lines) if not above and re.match(r" {4}\S", line)
    ]
    assert not indented or page.name == "CHANGELOG.md"


def slugs() -> set[str]:
    text = "".join(path.read_text() for path in SOURCES)
    return set(re.findall(r"warn_once\(\s*\"([a-z0-9-]+)\"", text))


def test_every_warning_has_its_section():
    assert slugs()
    assert slugs() <= anchors(ROOT / "docs" / "messages.md")


def test_every_error_is_in_the_table():
    page = (ROOT / "docs" / "messages.md").read_text()
    classes = inspect.getmembers(errors, inspect.isclass)
    named = {n for n, c in classes if issubclass(c, Exception) and not issubclass(c, Warning)}
    assert {n for n in named if n != "TorchDeviceError" and f"`{n}`" not in page} == set()


def all_pages() -> str:
    return "".join(page.read_text() for page in PAGES)


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_command_is_described(command):
    assert f"torchdevice {command}" in all_pages()


@pytest.mark.parametrize("public", sorted(torchdevice_mode.__all__))
def test_every_public_name_is_in_the_page_of_its_kind(public):
    page = "messages.md" if public.endswith("Error") else "api.md"
    assert re.search(rf"`{public}\b", (ROOT / "docs" / page).read_text())


@pytest.mark.parametrize("setting", [row.name for row in OF_REDIRECTION])
def test_every_setting_that_code_can_give_is_in_the_page(setting):
    assert f"`{setting}`" in (ROOT / "docs" / "api.md").read_text()


def test_what_ci_runs_is_the_second_command_of_the_readme():
    _, second = [block.code for block in blocks(ROOT / "README.md") if "nox -s" in block.code]
    assert second in (ROOT / ".ci" / "run").read_text()

"""Which files are read below what was given."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchdevice_mode._doctor._tree import local_modules, walk


@pytest.fixture
def tree(tmp_path):
    def make(*names: str) -> Path:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        return tmp_path

    return make


def names(paths, root):
    return [path.relative_to(root).as_posix() for path in paths]


def test_programs_notebooks_sources_and_requirements_are_read(tree):
    files = ["a.py", "b.ipynb", "k.cu", "m/c.pyw", "requirements.txt", "pyproject.toml"]
    root = tree(*files, "README.md", "data.csv", "m/x.so", "notes.txt")
    assert sorted(names(walk([root]), root)) == sorted(files)


@pytest.mark.parametrize(
    "name",
    [
        *(".git/a.py", ".venv/a.py", "node_modules/a.py", "build/lib/a.py", "x.egg-info/a.py"),
        *("__pycache__/a.py", "any/lib/site-packages/a.py"),
    ],
)
def test_folders_of_others_are_passed_over(name, tree):
    assert walk([tree(name)]) == []


def test_a_virtual_environment_is_passed_over_under_any_name(tree):
    assert walk([tree("mine/pyvenv.cfg", "mine/lib/a.py")]) == []


def test_a_file_that_is_named_is_read_wherever_it_is(tree):
    root = tree("build/a.py", "script")
    assert walk([root / "build" / "a.py", root / "script"]) == [
        root / "build/a.py",
        root / "script",
    ]


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("tests", ["a.py", "m/b.py", "m/test_b.py"]),
        ("m/*", ["a.py", "tests/c.py"]),
        ("test_*.py", ["a.py", "m/b.py", "tests/c.py"]),
        ("m/b.py", ["a.py", "m/test_b.py", "tests/c.py"]),
        ("tests/", ["a.py", "m/b.py", "m/test_b.py"]),
        ("*", []),
    ],
)
def test_what_a_pattern_matches_is_passed_over(pattern, left, tree):
    root = tree("a.py", "m/b.py", "m/test_b.py", "tests/c.py")
    assert names(walk([root], [pattern]), root) == left


def test_a_link_to_a_folder_above_ends(tree):
    root = tree("m/a.py")
    (root / "m" / "up").symlink_to(root)
    assert names(walk([root]), root) == ["m/a.py"]


def test_a_link_that_leads_nowhere_is_no_folder(tree):
    root = tree("a.py")
    (root / "b.py").symlink_to(root / "nowhere")
    assert "a.py" in names(walk([root]), root)


def test_a_file_is_read_once(tree):
    root = tree("m/a.py")
    assert walk([root / "m" / "a.py", root, root / "m"]) == [root / "m" / "a.py"]


def test_modules_of_the_project_are_those_that_imports_find(tree):
    root = tree("apex/__init__.py", "data/x.csv", "main.py", "src/own/a.py", "deep/triton.py")
    assert local_modules(root / "main.py", [root]) >= {"apex", "main", "own"}
    assert "data" not in local_modules(root / "main.py", [root])
    assert "triton" in local_modules(root / "deep" / "x.py", [root])
    assert "triton" not in local_modules(root / "main.py", [root])

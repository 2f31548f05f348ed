"""The verdict: on each program with what it imports, and on all in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchdevice_mode._doctor._project import Selection, diagnose

from ._reading import look_up

BAD = "import flash_attn\n"
GONE = "import torch\ndef f():\n  torch.cuda.gone"
MAIN = "if __name__ == '__main__': pass"
OTHER_CLASS = "from c import A\nclass B:\n  x = 1\n  def g(self): A()"
IN_A_CLASS = "import torch\nclass A:\n  def f(self):\n    torch.cuda.gone"
CAUGHT = "try:\n  import b\nexcept ImportError: pass"
RUNS = "runs unmodified"
NOTES = "runs with notes"
BUILT = "from torch.utils.cpp_extension import load\nload('x', ['x.cu'])"
ADDS = (
    "import sys, os.path as osp\nhere = osp.dirname(__file__)\n"
    "def add_path(path):\n  sys.path.insert(0, path)\nadd_path(osp.join(here, '..', 'lib'))"
)
WHY = "because flash_attn is for CUDA only, as its kernels are compiled for NVIDIA's devices."


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def judge(files: dict[str, str]):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return diagnose([tmp_path], look_up)

    return judge


@pytest.mark.parametrize(
    ("files", "verdicts"),
    [
        ({"a.py": "x = 1"}, {"a.py": RUNS}),
        ({"a.py": "import bitsandbytes"}, {"a.py": "runs with notes"}),
        ({"a.py": BAD}, {"a.py": "will fail"}),
        # what is imported for certain
        ({"a.py": "import b", "b.py": BAD}, {"a.py": "will fail"}),
        ({"a.py": "from m import b", "m/b.py": BAD}, {"a.py": "will fail"}),
        ({"a.py": "import m.c", "m/__init__.py": BAD, "m/c.py": ""}, {"a.py": "will fail"}),
        (
            {"a.py": "import m", "m/__init__.py": "from .b import x", "m/b.py": BAD},
            {"a.py": "will fail"},
        ),
        (
            {"a.py": "import m.d", "m/d.py": "from . import b", "m/b.py": BAD, "m/__init__.py": ""},
            {"a.py": "will fail"},
        ),
        ({"a.py": "import b", "src/b.py": BAD}, {"a.py": "will fail"}),
        ({"a.py": "import b", "b.py": "import a\nimport c", "c.py": BAD}, None),
        # what may not be imported
        ({"a.py": CAUGHT, "b.py": BAD}, {"a.py": NOTES}),
        ({"a.py": f"{CAUGHT}\nimport b", "b.py": BAD}, {"a.py": "will fail"}),
        ({"a.py": f"import b\n{CAUGHT}", "b.py": BAD}, {"a.py": "will fail"}),
        ({"a.py": CAUGHT, "b.py": "import c", "c.py": BAD}, {"a.py": NOTES}),
        ({"a.py": CAUGHT, "b.py": BUILT}, {"a.py": "will fail"}),
        ({"a.py": "try:\n  import b\nexcept: pass", "b.py": BUILT}, {"a.py": NOTES}),
        ({"a.py": f"{CAUGHT}\nb.f()", "b.py": GONE}, {"a.py": "will fail"}),
        ({"a.py": "def f():\n  import b", "b.py": BAD}, {"a.py": RUNS}),
        ({"a.py": "def f():\n  import b\nf()", "b.py": BAD}, {"a.py": NOTES}),
        ({"a.py": "def f():\n  import b\nf()", "b.py": "import c", "c.py": BAD}, {"a.py": NOTES}),
        ({"a.py": "if x:\n  import b", "b.py": BAD}, {"a.py": NOTES}),
        ({"a.py": "if x:\n  import b", "b.py": GONE}, {"a.py": RUNS}),
        # where they are looked up
        (
            {"n/a.py": "import m.b", "n/m/b.py": "import m.c", "n/m/c.py": BAD},
            {"n/a.py": "will fail"},
        ),
        (
            {
                "a.py": "import m.c",
                "m/__init__.py": "",
                "m/c.py": "import m.b",
                "m/b.py": BAD,
                "b.py": "",
            },
            {"a.py": "will fail", "b.py": RUNS},
        ),
        (
            {
                "a.py": "import m.c",
                "m/__init__.py": "",
                "m/c.py": "import b",
                "m/b.py": BAD,
                "b.py": "",
            },
            {"a.py": RUNS, "m/b.py": "will fail"},
        ),
        (
            {"a.py": "import sys\nsys.path.append('lib')\nimport b", "lib/b.py": BAD},
            {"a.py": "will fail"},
        ),
        (
            {
                "n/a.py": "import m.b\nimport init",
                "init.py": "",
                "n/init.py": ADDS,
                "lib/m/b.py": BAD,
                "n/m/__init__.py": "",
            },
            {"n/a.py": "will fail", "init.py": RUNS},
        ),
        # functions
        ({"a.py": "import b\nb.f()", "b.py": GONE}, {"a.py": "will fail"}),
        ({"a.py": "import b", "b.py": GONE}, {"a.py": "runs with notes"}),
        (
            {"a.py": "from b import A\nA()", "b.py": IN_A_CLASS},
            {"a.py": "will fail"},
        ),
        (
            {
                "a.py": "from b import B\nB()",
                "b.py": "from c import A\nclass B:\n  x = 1\n  def g(self): A()",
                "c.py": IN_A_CLASS,
            },
            {"a.py": "will fail"},
        ),
        ({"a.py": "import b", "b.py": f"{GONE}()\nf()"}, {"a.py": "will fail"}),
        (
            {"a.py": "import b", "b.py": f"{GONE}()\nTABLE = {{'f': f}}"},
            {"a.py": "runs with notes"},
        ),
        # programs are what is run
        (
            {"a.py": "import b", "b.py": MAIN},
            {"a.py": RUNS, "b.py": RUNS},
        ),
        ({"a.py": "", "setup.py": BAD, "conftest.py": BAD}, {"a.py": RUNS}),
        ({"a.py": "", "requirements.txt": "flash-attn"}, {"a.py": RUNS}),
    ],
)
def test_a_program_is_judged_with_what_it_imports(files, verdicts, project, tmp_path):
    diagnosis = project(files)
    judged = {
        str(program.path).removeprefix(f"{tmp_path}/"): program.verdict
        for program in diagnosis.programs
    }
    if verdicts is None:  # all import each other
        assert set(judged.values()) == {"will fail"}
    else:
        assert judged == verdicts


def test_the_first_failure_is_told_in_the_order_of_execution(project, tmp_path):
    files = {"a.py": f"import z\nimport b\n{BAD}", "b.py": BAD, "z.py": f"import y\n{BAD}"}
    (program,) = project({**files, "y.py": f"x = 1\n{BAD}"}).programs
    assert program.finding.place == f"{tmp_path}/y.py:2"


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"a.py": ""}, "runs unmodified."),
        (
            {"a.py": "import bitsandbytes"},
            "runs with notes: 1 warning, and nothing that must fail.",
        ),
        ({"a.py": BAD}, f"will fail at ROOT/a.py:1, {WHY}"),
        (
            {"a.py": "import b", "b.py": BAD},
            f"ROOT/a.py will fail at ROOT/b.py:1, {WHY}",
        ),
        (
            {"a.py": "def f(): import b\nf()", "b.py": BAD},
            f"ROOT/a.py may fail at ROOT/b.py:1, {WHY}",
        ),
        (
            {"a.py": "def f(): import b\nf()", "b.py": BAD, "c.py": BAD},
            "1 of 2 programs would run (1 of them may import what fails); the first of the others "
            f"will fail at ROOT/c.py:1, {WHY}",
        ),
        (
            {"a.py": "", "b.py": BAD},
            f"1 of 2 programs would run; the first of the others will fail at ROOT/b.py:1, {WHY}",
        ),
        (
            {"a.py": "def f(): import b", "b.py": BAD},
            f"the programs would run, and other code will fail at ROOT/b.py:1, {WHY}",
        ),
        (
            {"a.py": "import torch\ndef f():\n  torch.cuda.gone()\nf()"},
            "will fail at ROOT/a.py:3 when f is called, because torch.cuda.gone is absent: for a "
            "reason.",
        ),
    ],
)
def test_the_verdict_is_one_sentence(files, sentence, project, tmp_path):
    assert project(files).sentence.replace(str(tmp_path), "ROOT") == sentence


def test_a_program_that_is_named_is_told_of_with_what_it_imports(project, tmp_path):
    files = {"a.py": "import b", "b.py": "from m import c", "m/c.py": BAD, "other.py": BAD}
    project(files)
    diagnosis = diagnose([tmp_path / "a.py"], look_up)
    names = [Path(one.path).name for one in diagnosis.examined]
    assert names == ["a.py", "b.py", "c.py"]
    assert [program.verdict for program in diagnosis.programs] == ["will fail"]
    relative = diagnose([Path("a.py")], look_up)
    assert [one.path for one in relative.examined] == ["a.py", "b.py", "m/c.py"]
    excluded = diagnose([Path("a.py")], look_up, exclude=["c.py"])
    assert [one.path for one in excluded.examined] == ["a.py", "b.py"]


def test_a_program_finds_the_modules_of_its_project(project):
    project({"pyproject.toml": "", "m/b.py": BAD, "scripts/deep/a.py": "import m.b"})
    diagnosis = diagnose([Path("scripts/deep/a.py")], look_up)
    assert [one.path for one in diagnosis.examined] == ["m/b.py", "scripts/deep/a.py"]
    assert [program.verdict for program in diagnosis.programs] == ["will fail"]


def test_a_program_that_cannot_be_read_has_no_verdict(project, tmp_path):
    diagnosis = project({"a.py": "print 'x'"})
    assert diagnosis.verdict == "cannot be told" and diagnosis.programs == []
    assert diagnosis.sentence == f"cannot be told, as {tmp_path}/a.py:1 was passed over."


def test_what_is_built_from_cuda_source_cannot_be_imported(project):
    setup = "from torch.utils.cpp_extension import CUDAExtension\nCUDAExtension('own._C', ['a.cu'])"
    diagnosis = project(
        {"setup.py": setup, "own/__init__.py": "from . import _C", "a.py": "import own"}
    )
    (program,) = diagnosis.programs
    assert program.verdict == "will fail" and program.finding.rule == "cuda-extension-import"


@pytest.mark.parametrize(
    ("selection", "holds"),
    [
        (Selection(), True),
        (Selection(select=("cuda",)), True),
        (Selection(select=("torch-",)), False),
        (Selection(ignore=("cuda-package",)), False),
        (Selection(select=("cuda",), ignore=("cuda-p",)), False),
    ],
)
def test_rules_are_chosen_by_how_their_ids_begin(selection, holds):
    assert selection.holds("cuda-package") is holds

"""What is reached, and what is known of a branch before a program runs."""

from __future__ import annotations

import pytest
import torch

from torchdevice_mode._doctor._flow import Imported
from torchdevice_mode._doctor._states import built_for_cuda

from ._reading import found, read

NOTE, WARNING, ERROR = "note", "warning", "error"
CALL = "torch.cuda.nccl.all_reduce(x)"


def severity_of_the_call(text: str) -> str:
    """How serious the call of what is unsupported is, where it stands."""
    code = text.replace("CALL", CALL)
    return next(
        severity
        for _, rule, severity in found("import sys, torch\n" + code)
        if rule == "torch-unsupported"
    )


@pytest.mark.parametrize(
    ("text", "severity"),
    [
        ("CALL", ERROR),
        ("def f():\n  CALL", ERROR),
        ("class A:\n  def f(self):\n    CALL", ERROR),
        ("for i in x:\n  CALL", ERROR),
        ("with x:\n  CALL", ERROR),
        ("if x:\n  CALL", WARNING),
        ("if x: pass\nelse:\n  CALL", WARNING),
        ("x and CALL", WARNING),
        ("CALL if x else 1", WARNING),
        ("match x:\n  case 1:\n    CALL", WARNING),
        ("try:\n  CALL\nexcept NotImplementedError: pass", WARNING),
        ("try:\n  CALL\nexcept RuntimeError: pass", WARNING),
        ("try:\n  CALL\nexcept: pass", WARNING),
        ("try:\n  CALL\nexcept ValueError: pass", ERROR),
        ("try:\n  CALL\nexcept Exception:\n  raise", ERROR),
        ("import contextlib\nwith contextlib.suppress(Exception):\n  CALL", WARNING),
        # CUDA is said to be there
        ("if torch.cuda.is_available():\n  CALL", ERROR),
        ("if not torch.cuda.is_available():\n  CALL", NOTE),
        ("torch.cuda.is_available() and CALL", ERROR),
        ("torch.cuda.is_available() or CALL", NOTE),
        ("x = 1 if torch.cuda.is_available() else CALL", NOTE),
        # one device, of capability 7.0
        ("if torch.cuda.device_count() > 1:\n  CALL", NOTE),
        ("if torch.cuda.device_count() >= 1:\n  CALL", ERROR),
        ("if torch.cuda.get_device_capability()[0] >= 8:\n  CALL", NOTE),
        ("if torch.cuda.get_device_capability(0) >= (7, 0):\n  CALL", ERROR),
        ("a, b = torch.cuda.get_device_capability()\nif a * 10 + b >= 80:\n  CALL", NOTE),
        ("p = torch.cuda.get_device_capability()\ndef f():\n  if p[0] > 7:\n    CALL", NOTE),
        ("if torch.cuda.get_device_properties(0).major < 8: CALL", ERROR),
        # not built for CUDA
        ("if torch.version.cuda:\n  CALL", NOTE),
        ("if torch.backends.cudnn.is_available():\n  CALL", NOTE),
        ("if torch.backends.cuda.is_built():\n  CALL", NOTE),
        ("if torch.version.cuda is None:\n  CALL", ERROR),
        ("if torch.version.cuda is None:\n  raise SystemExit\nCALL", NOTE),
        ("def f():\n  if torch.version.cuda is None:\n    return\n  CALL", NOTE),
        ("if x.device.type == 'cuda':\n  CALL", NOTE),
        ("if x.device.type != 'cuda':\n  CALL", ERROR),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  CALL", NOTE),
        # a package that is not there
        ("try:\n  import flash_attn\n  CALL\nexcept ImportError: pass", NOTE),
        ("try:\n  import flash_attn\nexcept ImportError: pass\nelse:\n  CALL", NOTE),
        ("try:\n  import flash_attn\nexcept ImportError:\n  CALL", ERROR),
        (
            "try:\n  import flash_attn\n  HAS = True\nexcept ImportError:\n  HAS = False\n"
            "def f():\n  if HAS:\n    CALL",
            NOTE,
        ),
        (
            "try:\n  import flash_attn\n  HAS = True\nexcept ImportError:\n  HAS = False\n"
            "def f():\n  if not HAS:\n    CALL",
            ERROR,
        ),
        (
            "try:\n  from flash_attn import f\nexcept ImportError:\n  f = None\n"
            "if f is not None:\n  CALL",
            NOTE,
        ),
        (
            "from importlib.util import find_spec\nHAS = find_spec('flash_attn') is not None\n"
            "if HAS:\n  CALL",
            NOTE,
        ),
        # what is not known
        ("HAS = False\nif HAS:\n  CALL", WARNING),
        ("HAS = torch.version.cuda\ndef f():\n  global HAS\n  HAS = 1\nif HAS:\n  CALL", WARNING),
        ("for v in x:\n  if v:\n    CALL\n  v = torch.version.cuda", WARNING),
        ("if x:\n  v = torch.version.cuda\nelse:\n  v = 1\nif v:\n  CALL", WARNING),
        ("def f(v=torch.version.cuda):\n  if v:\n    CALL", WARNING),
        ("while torch.version.cuda:\n  CALL", NOTE),
        # after the end
        ("def f():\n  return 1\n  CALL", NOTE),
        ("def f():\n  if x:\n    return 1\n  CALL", ERROR),
        ("def f():\n  if x:\n    return 1\n  else:\n    raise x\n  CALL", NOTE),
        ("sys.exit()\nCALL", NOTE),
    ],
)  # fmt: skip
def test_a_call_is_as_serious_as_its_place(text, severity):
    assert severity_of_the_call(text) == severity


@pytest.mark.parametrize(
    ("text", "severity"),
    [
        ("import flash_attn", ERROR),
        ("try:\n  import flash_attn\nexcept ImportError:\n  flash_attn = None", WARNING),
        ("try:\n  import flash_attn\nexcept ModuleNotFoundError: pass", WARNING),
        ("try:\n  import flash_attn\nexcept (KeyError, ImportError): pass", WARNING),
        ("try:\n  import flash_attn\nexcept: pass", WARNING),
        ("try:\n  import flash_attn\nexcept ImportError:\n  raise SystemExit", ERROR),
        ("try:\n  import flash_attn\nexcept ImportError:\n  import sys\n  sys.exit(1)", ERROR),
        ("try:\n  import flash_attn\nexcept KeyError: pass", ERROR),
        ("import torch\nif torch.version.cuda: import flash_attn", NOTE),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING: import flash_attn", NOTE),
        ("def f():\n  import flash_attn", WARNING),
        ("if x:\n  import flash_attn", WARNING),
    ],
)
def test_an_import_is_as_serious_as_its_place(text, severity):
    assert ("cuda-package", severity) in [(rule, word) for _, rule, word in found(text)]


@pytest.mark.parametrize(
    "text",
    [
        "assert torch.cuda.device_count() >= 2",
        "assert torch.cuda.get_device_capability() >= (8, 0), 'too old'",
        "if torch.cuda.device_count() < 2:\n  raise RuntimeError",
        "if torch.version.cuda is None:\n  sys.exit(1)",
        "if torch.version.cuda:\n  pass\nelse:\n  raise SystemExit",
    ],
)
def test_a_check_that_no_target_passes_is_an_error(text):
    lines = ("import sys, torch\n" + text).split("\n")
    assert (len(lines), "known-failure", ERROR) in found("\n".join(lines))


@pytest.mark.parametrize(
    "text",
    [
        "assert torch.cuda.is_available()",
        "if not torch.cuda.is_available():\n  raise SystemExit",
        "assert torch.cuda.device_count() >= 1",
        "assert x",
    ],
)
def test_a_check_that_the_target_passes_is_none(text):
    assert "known-failure" not in [rule for _, rule, _ in found("import torch\n" + text)]


def test_a_branch_says_which_way_it_goes_and_why():
    one = read("import torch\nif torch.cuda.get_device_capability() >= (8, 0): f()")
    (branch,) = [finding for finding in one.findings if finding.rule == "known-branch"]
    assert branch.message == (
        "this is False, as torch.cuda.get_device_capability() is (7, 0) here."
    )


def test_what_is_not_reached_says_why():
    one = read("import torch\nif torch.version.cuda:\n  import flash_attn")
    (package,) = [finding for finding in one.findings if finding.rule == "cuda-package"]
    assert package.message.endswith("not reached (torch.version.cuda is None here).")


def test_a_torch_built_for_cuda_has_a_version_of_cuda():
    text = "import torch\nif torch.version.cuda:\n  torch.cuda.gone\nfloat(torch.version.cuda)"
    assert found(text, cuda_build=True) == [
        (2, "torch-native", NOTE),
        (3, "torch-absent", WARNING),
        (4, "cuda-version", WARNING),
        (4, "torch-native", NOTE),
    ]


def test_a_torch_built_for_cuda_may_have_cudnn():
    text = "import torch\nassert torch.backends.cudnn.is_available()"
    assert (2, "known-failure", ERROR) in found(text)
    assert found(text, cuda_build=True) == []


def test_whether_torch_was_built_for_cuda_is_read_from_its_files():
    assert built_for_cuda() is (torch.version.cuda is not None)


def test_imports_are_told_apart_by_whether_they_happen():
    one = read(
        "import a\nfrom .b import c\ntry:\n  import d\nexcept ImportError: pass\n"
        "def f():\n  import e\nif x:\n  import g\n"
    )
    nothing, failing = frozenset(), frozenset({"ImportError"})
    assert one.imported == [
        Imported("a", (), 0, 1, True, nothing),
        Imported("b", ("c",), 1, 2, True, nothing),
        Imported("d", (), 0, 4, True, failing),
        Imported("g", (), 0, 9, False, nothing),
        Imported("e", (), 0, 7, False, nothing, "f"),
    ]
    assert not one.is_program
    assert read("if __name__ == '__main__':\n  f()").is_program

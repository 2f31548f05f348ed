"""No text makes the doctor raise, and what it finds lies inside of the text."""

from __future__ import annotations

import ast
import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchdevice_mode._doctor._requirements import examine_requirements
from torchdevice_mode._doctor._sources import UnreadableError, notebook

from ._reading import read

# Pieces of programs, put together at random: many of the results are Python.
PIECES = [
    *("import torch", "import flash_attn", "from torch.cuda import *", "from . import x", "x = 1"),
    *("try:", "except ImportError:", "else:", "finally:", "if x:", "elif y:", "while x:", "pass"),
    *("def f(x='cuda'):", "class A(torch.nn.Module):", "with x as y:", "for x in y:", "match x:"),
    *("case 'cuda':", "return", "raise", "lambda: x", "x.cuda()", "x.to('cuda:1')", "f'cuda:{x}'"),
    *("torch.cuda.gone", "torch.version.cuda.split()", "assert torch.cuda.device_count() > 1"),
    *("a, *b = torch.cuda.get_device_capability()", "(x := torch.version.cuda)", "del x"),
    *(
        "torch.cuda.get_device_capability()[5]",
        "[x for x in torch.cuda]",
        "@torch.autocast('cuda')",
    ),
    *("os.environ['CUDA_VISIBLE_DEVICES'] = ''", "x[torch.cuda:1] += 'cuda'", "global x"),
    *("async def g():", "await x", "yield 'cuda'", "import os, subprocess", "subprocess.run(x)"),
    *("torch.cuda.get_device_capability() < 'x'", "-torch.version.cuda", "not 1 ** 10 ** 10"),
]
STATEMENTS = [piece for piece in PIECES if not piece.endswith(":")]
LINES = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(PIECES)).map(lambda row: "  " * row[0] + row[1]),
    max_size=12,
)
KEYS = st.sampled_from(["cells", "source", "cell_type", "metadata", "x"])
ANY_JSON = st.recursive(
    st.none() | st.text() | st.integers(), lambda s: st.lists(s) | st.dictionaries(KEYS, s)
)
QUICK = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def check(text: str) -> None:
    one = read(text)
    lines = text.split("\n")
    for finding in one.findings:
        assert 1 <= finding.line <= len(lines) + 1
        assert finding.column >= 1 and finding.message


@QUICK
@given(st.text())
def test_any_text(text):
    check(text.replace("\r", "").replace("\f", ""))


@QUICK
@given(LINES)
def test_any_lines_of_programs(lines):
    check("\n".join(lines))


@QUICK
@given(
    st.lists(st.sampled_from([piece for piece in PIECES if not piece.endswith(":")]), max_size=9)
)
def test_any_program(lines):
    # Nested so that each is in a function, behind a condition, and caught.
    body = "".join(f"    {line}\n" for line in lines if not line.startswith(("@", "global")))
    text = "import os, subprocess, torch\nif torch.version.cuda:\n  pass\ntry:\n  async def h():\n"
    text += f"{body}    pass\nexcept ImportError:\n  pass\n"
    try:
        ast.parse(text)
    except SyntaxError:
        return
    assert "unparsable-file" not in [finding.rule for finding in read(text).findings]


@QUICK
@given(st.text())
def test_any_list_of_requirements(text):
    for name in ("requirements.txt", "pyproject.toml"):
        examine_requirements(text, name, "mps")


@QUICK
@given(ANY_JSON)
def test_any_json_is_a_notebook_or_none(value):
    try:
        notebook(json.dumps(value))
    except UnreadableError:
        pass

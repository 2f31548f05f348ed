"""Notebooks: their code cells as one program, magics passed over."""

from __future__ import annotations

import json

import pytest

from torchdevice_mode._doctor._project import diagnose
from torchdevice_mode._doctor._sources import UnreadableError, notebook

from ._reading import look_up


def book(*codes: str, **more: object) -> str:
    cells = [{"cell_type": "code", "source": code.splitlines(keepends=True)} for code in codes]
    return json.dumps({"cells": cells, "metadata": {}, **more})


@pytest.mark.parametrize(
    ("line", "read"),
    [
        ("%matplotlib inline", "pass"),
        ("if x:\n  !nvidia-smi", "if x:\n  pass"),
        ("?torch.zeros", "pass"),
        ("torch.zeros?", "pass"),
        ("x = !ls", "x = None"),
        ("x = %time f()", "x = None"),
        ("x = 5 % 3", "x = 5 % 3"),
        ("x = 'a?'", "x = 'a?'"),
        ("# is it?", "# is it?"),
        ("%pip install \\\n  flash-attn", "pass\n"),
        ("%%time\nx = 1", "\nx = 1"),
        ("%%bash\nls -l", "\n"),
    ],
)
def test_a_magic_is_passed_over_and_lines_keep_their_numbers(line, read):
    assert notebook(book(line)).text == read


def test_a_cell_that_is_not_python_is_told_and_the_others_are_read():
    found = notebook(book("x = 1", "print 'x'", "y = 2"))
    assert found.text == "x = 1\n\ny = 2"
    assert [(cell, line) for cell, line, _ in found.broken] == [(2, 1)]
    assert [found.place(line) for line in (1, 3)] == [(1, 1), (3, 1)]


def test_a_notebook_in_another_language_is_empty():
    metadata = {"kernelspec": {"language": "julia"}}
    assert notebook(book("x = 1", metadata=metadata)).text == ""


def test_an_old_notebook_is_read():
    old = {"worksheets": [{"cells": [{"cell_type": "code", "input": "x = 1"}]}]}
    assert notebook(json.dumps(old)).text == "x = 1"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cells": 1}', '{"cells": [1]}', "1"])
def test_what_is_no_notebook_is_said(text):
    with pytest.raises(UnreadableError, match="it is not a notebook"):
        notebook(text)


def test_findings_name_cell_and_line(tmp_path):
    path = tmp_path / "a.ipynb"
    path.write_text(book("dev = 'cuda'", "x = 1\ny = x.to(dev).cuda()"))
    places = [finding.place for finding in diagnose([path], look_up).findings]
    assert places == [f"{path}:cell 1:1", f"{path}:cell 2:2"]

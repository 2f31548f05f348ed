"""What a report holds: totals, costs, suggestions, sources."""

from __future__ import annotations

import dataclasses
import linecache
import os

import pytest

from torchdevice_mode._report._names import names_by_line
from torchdevice_mode._report._sources import read_source
from torchdevice_mode._suggestions import for_name

from .conftest import an_entry


def test_a_report_does_not_change(report_of):
    report = report_of(an_entry())
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.target = "cpu"
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.entries[0].count = 2


def test_totals_are_by_kind_with_the_most_expected_first(report_of):
    report = report_of(
        an_entry(kind="stub", count=9),
        an_entry(kind="fallback", line=4, count=2, moved=10, seconds=0.5),
        an_entry(kind="fallback", line=4, asked="aten::mode", moved=5, seconds=0.25),
        an_entry(line=1, count=3),
        an_entry(line=2, count=4),
    )
    assert list(report.totals) == ["redirection", "fallback", "stub"]
    assert report.totals["redirection"] == (7, 2, 0, 0.0)
    assert report.totals["fallback"] == (3, 1, 15, 0.75)


def test_costs_are_the_slowest_first(report_of):
    report = report_of(
        an_entry(line=1, count=5),
        an_entry(line=2, kind="adoption", moved=9),
        an_entry(line=3, kind="fallback", seconds=0.1),
        an_entry(line=4, kind="fallback", seconds=2.0),
    )
    assert [entry.line for entry in report.costs] == [4, 3, 2]


def test_entries_are_the_busiest_first(report_of):
    report = report_of(*(an_entry(line=n, count=n) for n in (2, 5, 1)))
    assert [entry.line for entry in report.entries] == [5, 2, 1]


PROGRAM = """\
import torch
import torch as th
from torch.cuda.amp import GradScaler, autocast as cast
x = torch.zeros(3).cuda()
with cast():
    y = x
scaler = GradScaler()
z = torch.zeros(3, device="cuda:1")
w = torch.zeros(
    3,
    device="cuda",
)
args.cuda = True
if args.cuda and th.cuda.is_available():
    th.cuda.synchronize()
for _ in range(3): x.cuda(0); torch.Generator("cuda")
v = x.type("torch.cuda.FloatTensor")
u = torch.rand(3, device=0)
def f(device="cuda"):
    return device
x.to(dtype=torch.float32)
if x.is_cuda: pass
class A:
    @torch.cuda.amp.autocast()
    def g(self): "cuda"
print(f"cuda:{1}")
"""


@pytest.mark.parametrize(
    ("line", "names"),
    [
        (1, ()),
        (4, ("Tensor.cuda",)),
        (5, ("torch.cuda.amp.autocast",)),
        (6, ()),
        (7, ("torch.cuda.amp.GradScaler",)),
        (8, ("device string",)),
        (9, ("device string",)),
        (11, ("device string",)),
        (13, ()),
        (14, ("torch.cuda.is_available",)),
        (15, ("torch.cuda.synchronize",)),
        (16, ("Tensor.cuda", "torch.Generator")),
        (17, ("Tensor.type",)),
        (18, ("device index",)),
        (19, ("device string",)),
        (20, ()),
        (21, ()),
        (22, ("Tensor.is_cuda",)),
        (24, ("torch.cuda.amp.autocast",)),
        (26, ("device string",)),
    ],
)
def test_names_of_torch_are_read_off_a_line(line, names):
    assert names_by_line(PROGRAM).get(line, ()) == names


@pytest.mark.parametrize("text", ["def f(:", "\0", "x = (" * 300, ""])
def test_what_python_cannot_parse_names_nothing(text):
    assert names_by_line(text) == {}


@pytest.mark.parametrize(
    ("line", "kind", "asked", "instead"),
    [
        (4, "redirection", "cuda", ".to(device)"),
        (5, "redirection", "cuda", "torch.autocast(device.type)"),
        (8, "redirection", "cuda:1", "device"),
        (9, "redirection", "cuda", "device"),
        (9, "redirection", "no device", ""),
        (15, "synchronisation", "torch.cuda.synchronize", "torch.accelerator.synchronize()"),
        (14, "answer", "torch.cuda.is_available", "torch.accelerator.is_available()"),
        (8, "downcast", "float64 in zeros", "dtype=torch.float32"),
        (6, "adoption", "a CPU tensor in add", "x = x.to(device)"),
    ],
)
def test_an_entry_is_told_what_to_write(report_of, tmp_path, line, kind, asked, instead):
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    (entry,) = report_of(an_entry(file, line, kind, asked)).entries
    assert [row.instead for row in entry.suggestions] == [instead]


_CHOICE = for_name("device choice").instead


@pytest.mark.parametrize(
    ("text", "kind", "asked", "written"),
    [
        ("d = 'cuda' if torch.cuda.is_available() else 'cpu'", "answer", "", [_CHOICE]),
        ("d = 'cpu' if not args.gpu else 'cuda:0'", "redirection", "cuda:0", [_CHOICE]),
        (
            'd = torch.device("cuda" if torch.cuda.is_available() else "cpu")',
            "redirection",
            "cuda",
            [_CHOICE],
        ),
        (
            'd = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")',
            "redirection",
            "cuda",
            [_CHOICE],
        ),
        (
            "t = 'half' if torch.cuda.is_available() else 'float'",
            "answer",
            "",
            ["torch.accelerator.is_available()"],
        ),
        (
            'x = f("cuda") if torch.cuda.is_available() else None',
            "answer",
            "",
            ["torch.accelerator.is_available()"],
        ),
        ("y = x.cpu()", "redirection", "cpu", [for_name("Tensor.cpu").instead]),
        ("y = x.cuda().cpu()", "redirection", "cuda", [".to(device)"]),
        ("x = x.to(opt.where)", "redirection", "cuda", [""]),
        ("x = x.to(0)", "redirection", "0", ["device"]),
        (
            "s = torch.load(f, map_location=torch.device('cuda'))",
            "redirection",
            "cuda",
            ['torch.load(path, map_location="cpu")'],
        ),
    ],
)
def test_what_is_to_be_written_suits_the_line(report_of, tmp_path, text, kind, asked, written):
    file = tmp_path / "program.py"
    file.write_text(f"{text}\n")
    (entry,) = report_of(
        an_entry(file, kind=kind, asked=asked or "torch.cuda.is_available")
    ).entries
    assert [row.instead for row in entry.suggestions] == written


def test_a_device_that_comes_from_another_line_is_said_to(report_of, tmp_path):
    file = tmp_path / "program.py"
    file.write_text("x = x.to(opt.where)\n")
    (entry,) = report_of(an_entry(file)).entries
    assert "another line" in entry.suggestions[0].advice


def test_where_no_line_can_be_read_the_device_may_stand_in_it(report_of):
    (entry,) = report_of(an_entry("<string>")).entries
    assert [row.name for row in entry.suggestions] == ["event redirection"]


def test_layers_that_are_moved_at_once_are_not_told_to_name_a_device(report_of):
    report = report_of(an_entry(asked="no device", count=2), an_entry(asked="cuda"))
    first, second = report.entries
    assert first.asked == "no device" and first.suggestions == ()
    assert second.suggestions


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"a\nb\n", ("a", "b")),
        (b"a\r\nb\rc", ("a", "b", "c")),
        (b"x = '\xff'\n", ("x = '\ufffd'",)),
        (b"# coding: latin-1\nx = '\xe9'\n", ("# coding: latin-1", "x = '\xe9'")),
        (b"# coding: nonsense\nx\n", ("# coding: nonsense", "x")),
        (b"\xef\xbb\xbfx\n", ("x",)),
        (b"a\x0cb\n", ("a\x0cb",)),
        (b"", ()),
    ],
)
def test_a_source_file_is_read_whatever_it_holds(tmp_path, data, lines):
    file = tmp_path / "program.py"
    file.write_bytes(data)
    assert read_source(str(file)).lines == lines


@pytest.mark.parametrize("name", ["<string>", "<stdin>", "/nowhere/at/all.py", "a\0b", "<unknown>"])
def test_a_source_that_is_not_there_has_no_lines(name):
    source = read_source(name)
    assert source.lines == () and source.line(1) == "" and not source.names


def test_a_cell_of_a_notebook_is_read_from_what_python_keeps(monkeypatch):
    name = "/tmp/ipykernel_1/2.py"
    monkeypatch.setitem(linecache.cache, name, (4, None, ["x.cuda()\n"], name))
    assert read_source(name).lines == ("x.cuda()",)


def test_a_file_that_was_changed_while_the_program_ran_is_marked(tmp_path):
    file = tmp_path / "program.py"
    file.write_text("x\n")
    os.utime(file, (100, 100))
    assert read_source(str(file), since=50).changed
    assert not read_source(str(file), since=150).changed
    assert not read_source(str(file)).changed

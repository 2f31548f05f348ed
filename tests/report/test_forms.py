"""The report as text, JSON and a page."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser

import jsonschema
import pytest

from torchdevice_mode._report import _text
from torchdevice_mode._report._json import SCHEMA_VERSION, schema
from torchdevice_mode._settings import Settings
from torchdevice_mode._words import size, time

from .conftest import an_entry

EVIL = "x = '</script><script>alert(1)</script>' + \"<img src=http://e.com/x>\" & '\x07\x1b[31m'"

# Elements without an end.
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Reads a page, and complains of what is not well formed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        assert len(attributes) == len(dict(attributes)), f"an attribute twice: {attributes}"
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> within {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def full_report(report_of, tmp_path):
    """A report with everything in it."""
    file = tmp_path / "train.py"
    lines = [f"line_{n} = {n}" for n in range(1, 201)]
    lines[49] = "x = x.cuda()  # a comment"
    lines[99] = EVIL
    lines[149] = "data = '" + "y" * 5000 + "'"
    file.write_text("\n".join(lines), newline="")
    return report_of(
        an_entry(file, 50, count=1234),
        an_entry(file, 50, "adoption", "a CPU tensor in add", moved=3_000_000, seconds=0.25),
        an_entry(file, 100, "fallback", "aten::<b>", "cpu", seconds=1.5, reason="a & b\0"),
        an_entry(file, 150, "stub", "torch.cuda.nvtx.mark", "nothing"),
        an_entry("/gone/away.py", 7, "downcast", "float64 in zeros", "float32"),
        an_entry("<unknown>", 0, "redirection", "no device", "mps:0"),
        an_entry("<string>", 1, "operator", "aten::mm", "mps:0", count=10, seconds=0.5),
        folder=str(tmp_path),
        unreported=2,
    )


# --- text -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rich", [False, True, None])
def test_the_text_has_every_part(full_report, rich):
    text = full_report.text(rich=rich)
    parts = ["torchdevice report: train.py --lr 1, target mps:0", "Summary", "What it cost"]
    parts += ["Lines to look at", "train.py:50", "2 child processes left no counts"]
    positions = [text.index(part) for part in parts]
    assert positions[:4] == sorted(positions[:4])
    assert "1,234x redirection: cuda → mps:0, the machine has no cuda" in text
    assert "write .to(device)" in text
    assert text.endswith("\n") and "\x1b" not in text and "\x00" not in text


def test_the_plain_text_is_in_columns(report_of):
    report = report_of(an_entry(count=1200), an_entry(line=2, kind="fallback", count=3, seconds=2))
    summary = report.text(rich=False).split("\n\n")[2].splitlines()
    assert summary == [
        "Summary",
        "  what happened  times  lines  time  copied",
        "  redirections   1,200      1",
        "  fallbacks          3      1   2 s",
    ]


def test_nothing_is_said_in_a_sentence(report_of):
    assert "Nothing was redirected." in report_of().text(rich=False)
    assert "Nothing was redirected." in report_of().text(rich=True)


def test_the_text_needs_no_rich(full_report, monkeypatch):
    monkeypatch.setattr(_text.importlib.util, "find_spec", lambda name: None)
    assert full_report.text() == full_report.text(rich=False)


def test_rich_that_is_missing_is_named(full_report, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rich.console", None)
    with pytest.raises(ModuleNotFoundError, match="rich is not installed"):
        full_report.text(rich=True)


def test_showing_prints(full_report, capsys):
    full_report.show()
    assert "Lines to look at" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_000_000, "2.0 MB"), (3e9, "3.0 GB")],
)
def test_bytes_are_in_the_unit_that_suits_them(value, shown):
    assert size(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *((0, "0 s"), (1e-9, "< 1 µs"), (2e-6, "2 µs"), (0.0125, "12.5 ms"), (1.5, "1.5 s")),
        *((61.2, "1 min 01 s"), (3599.9, "60 min 00 s")),
    ],
)
def test_times_are_in_the_unit_that_suits_them(value, shown):
    assert time(value) == shown


# --- JSON -------------------------------------------------------------------------------------


def test_the_json_fits_its_schema(full_report, report_of):
    jsonschema.Draft202012Validator.check_schema(schema())
    for report in (full_report, report_of(), report_of(target=None, program=[], folder="")):
        jsonschema.validate(json.loads(report.to_json()), schema())


def test_the_schema_refuses_what_is_no_report(full_report):
    for name in ("entries", "version", "target"):
        broken = full_report.to_dict() | {name: "nonsense"}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema())
    assert schema()["properties"]["version"]["const"] == SCHEMA_VERSION


def test_the_json_has_what_was_counted(full_report):
    told = full_report.to_dict()
    assert told["totals"]["redirection"] == {"count": 1235, "lines": 2, "moved": 0, "seconds": 0.0}
    first = told["entries"][0]
    assert (first["count"], first["source"]) == (1234, "x = x.cuda()  # a comment")
    assert first["suggestions"][0]["instead"] == ".to(device)"
    assert told["settings"]["policy"] == "force"
    assert told["unreported"] == 2


# --- the page -----------------------------------------------------------------------------------


def test_the_page_is_well_formed(full_report):
    page = Page(full_report.html())
    assert page.tags[0] == ("html", {"lang": "en"})
    assert "1,234" in page.text and "aten::<b>" in page.text and "a & b" in page.text


def test_the_page_loads_nothing(full_report):
    html = full_report.html()
    page = Page(html)
    assert not {"script", "iframe", "img", "object", "embed", "form"} & {t for t, _ in page.tags}
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
        assert not any(name.startswith("on") for name in attributes)
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style and "@font-face" not in style


def test_source_text_stays_text(full_report):
    html = full_report.html()
    assert "<script" not in html and "\x00" not in html and "\x1b" not in html
    shown = Page(html).text
    assert "</script><script>alert(1)</script>" in shown.replace("' ", "'").replace(" '", "'")


def test_every_link_leads_somewhere_and_no_id_is_given_twice(full_report):
    page = Page(full_report.html())
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for attributes in page.all("a")]
    assert len(links) > 8 and {link[1:] for link in links} <= set(ids)
    labels = [attributes["aria-labelledby"] for attributes in page.all("section")]
    assert set(labels) <= set(ids)


def test_unmarked_stretches_are_folded_and_nothing_is_lost(full_report):
    html = full_report.html()
    page = Page(html)
    numbers = [int(a["data-n"]) for a in page.all("span") if "data-n" in a]
    # Of the file that is gone, its one line has a number and no text.
    numbers.remove(7)
    assert sorted(numbers) == list(range(1, 201))
    folds = re.findall(r"<summary>Lines (\d+) to (\d+)", html)
    assert folds == [("1", "46"), ("54", "96"), ("104", "146"), ("154", "200")]


def test_long_lines_are_cut(full_report):
    html = full_report.html()
    assert "more characters" in html and "y" * 2000 not in html


def test_a_file_without_source_is_said_to_have_none(full_report):
    assert "The source of this file cannot be read" in Page(full_report.html()).text


def test_headings_go_down_by_one(full_report):
    page = Page(full_report.html())
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_tables_have_captions_and_heads(full_report):
    page = Page(full_report.html())
    assert len(page.all("caption")) == len(page.all("table")) >= 3
    assert page.all("th") and all(attributes["scope"] == "col" for attributes in page.all("th"))


def test_the_page_can_be_used_without_a_mouse(full_report):
    page = Page(full_report.html())
    first = next(attributes for tag, attributes in page.tags if tag == "a")
    assert first["href"] == "#main"
    tags = {tag for tag, _ in page.tags}
    assert {"header", "nav", "main", "footer", "h1"} <= tags
    # What scrolls on its own can have the focus, and has a name.
    for attributes in page.all("div"):
        if attributes.get("class") == "scroll":
            assert attributes["tabindex"] == "0" and attributes["aria-label"]


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({}, "Nothing was redirected: the program asked for nothing"),
        ({"target": None}, "Nothing was redirected: the program did not import torch"),
    ],
)
def test_a_page_of_nothing_says_so(report_of, told, words):
    page = Page(report_of(**told).html())
    assert words in page.text
    assert not page.all("pre")


def test_a_long_file_is_shown_whole(report_of, tmp_path):
    file = tmp_path / "long.py"
    file.write_text("".join(f"value_{n} = {n}\n" for n in range(5000)))
    html = report_of(an_entry(file, 2500)).html()
    assert html.count("data-n=") == 5000
    assert len(html) < 1_000_000


def test_a_page_of_very_much_source_leaves_out_what_is_folded(report_of, tmp_path):
    file = tmp_path / "huge.py"
    file.write_text("x = 1\n" * 60_000)
    html = report_of(an_entry(file, 2500)).html()
    assert html.count("data-n=") == 7
    assert "left out of this page for its size" in html


def test_a_source_that_python_cannot_read_is_shown_plain(report_of, tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("x = '''\nfoo(\n  bar\n")
    assert "foo(" in Page(report_of(an_entry(file, 2)).html()).text


def test_a_line_beyond_the_end_of_a_file_that_shrank_is_kept(report_of, tmp_path):
    file = tmp_path / "short.py"
    file.write_text("x\n")
    page = Page(report_of(an_entry(file, 90)).html())
    assert any(attributes.get("id", "").endswith("-90") for attributes in page.all("div"))


@pytest.mark.parametrize("form", [lambda r: r.text(rich=False), lambda r: Page(r.html()).text])
def test_functions_on_one_line_are_told_together(report_of, form):
    one, other = an_entry(count=4, moved=8), an_entry(count=3, moved=8)
    other = other._replace(site=other.site._replace(function="main.<locals>.<listcomp>"))
    told = form(report_of(one, other))
    assert re.search(r"7(x|×)", told) and "16 B copied" in told
    assert not re.search(r"\b[43](x|×)", told)


# --- operators of a profile -------------------------------------------------------------------


@pytest.mark.parametrize("form", [lambda r: r.text(rich=False), lambda r: Page(r.html()).text])
def test_what_falls_back_and_what_is_copied_is_told_apart(report_of, form):
    many = [
        an_entry(line=line, kind="operator", asked=f"aten::op{line}", seconds=line + 1)
        for line in range(30)
    ]
    report = report_of(
        *many,
        an_entry(line=90, kind="fallback", asked="aten::mode", given="cpu", seconds=25, count=2),
        an_entry(line=91, kind="copy", asked="aten::_to_copy", given="cpu to mps:0", seconds=10),
        settings=Settings(profile=True),
    )
    told = form(report)
    # 465 + 25 + 10 seconds.
    assert "Operators: 7 min 45 s, 93.0 % of the time measured" in told
    assert "Fallbacks to the CPU, copies included: 25 s, 5.0 % of the time measured" in told
    assert "Copies between devices: 10 s, 2.0 % of the time measured" in told
    assert re.search(r"10 s +2\.0 % +1 +10 s +aten::_to_copy +cpu to mps:0", told)

"""The summary's text, from entries made up for it."""

from __future__ import annotations

import pytest

from torchdevice_mode._ledger import Entry, Site
from torchdevice_mode._summary import render

SOURCES = {("/home/me/train.py", 3): "    x  =  x.cuda()\n", ("/home/me/train.py", 9): "y" * 99}


def entry(count=1, line=3, kind="redirection", file="/home/me/train.py", asked="cuda", given="cpu"):
    return Entry(Site(file, line, "main", kind, asked, given, "because"), count)


def lines(*entries, **options):
    options = {"target": "mps:0", "folder": "/home/me"} | options
    text = render(entries, source_line=lambda *place: SOURCES.get(place, ""), **options)
    return text.splitlines()


def test_nothing_is_one_line():
    assert lines() == ["torchdevice: nothing was redirected (target mps:0)"]


def test_a_site_shows_count_place_change_and_source():
    assert lines(entry()) == [
        "torchdevice: 1 redirection, target mps:0",
        "  1x  train.py:3  cuda -> cpu  x = x.cuda()",
    ]


def test_a_cost_is_shown_where_it_was_measured():
    site = Site("/home/me/train.py", 3, "main", "fallback", "aten::mode", "cpu", "because")
    assert lines(Entry(site, 2, moved=1_500_000, seconds=0.25))[1].startswith(
        "  2x  train.py:3  aten::mode -> cpu (250 ms, 1.5 MB copied)"
    )


def test_what_costs_most_is_shown_however_seldom_it_happened():
    dear = Site("/home/me/train.py", 9, "main", "fallback", "aten::mode", "cpu", "because")
    entries = [entry(count=count, line=100 + count) for count in range(2, 10)]
    _, *shown = lines(*entries, Entry(dear, 1, seconds=2.5), busiest=3)
    assert [line.split()[0] for line in shown] == ["9x", "8x", "1x", "and"]
    assert "aten::mode -> cpu (2.5 s)" in shown[2]
    assert shown[-1] == "  and 27 more at 6 call sites"


def test_totals_are_by_kind_with_redirections_first_and_unknown_kinds_last():
    kinds = ["zebra", "stub", "adoption", "redirection", "downcast", "fallback"]
    first, *_ = lines(*(entry(count=1000, kind=kind) for kind in kinds), entry(kind="adoption"))
    assert first == (
        "torchdevice: 1,000 redirections, 1,001 adoptions, 1,000 fallbacks, 1,000 downcasts, "
        "1,000 stubbed calls, 1,000 zebras, target mps:0"
    )


def test_the_busiest_come_first_and_the_rest_is_counted():
    entries = [entry(count=count, line=100 + count) for count in (5, 1, 1200, 7, 3, 2)]
    shown = lines(*entries, busiest=4)
    assert [line.split()[0] for line in shown[1:]] == ["1,200x", "7x", "5x", "3x", "and"]
    assert shown[-1] == "  and 3 more at 2 call sites"
    assert lines(*entries)[-1] == "  and 1 more at 1 call site"


@pytest.mark.parametrize("unnamed", ["no device", "cpu", "cpu:0"])
def test_lines_that_name_an_accelerator_come_before_busier_ones_that_do_not(unnamed):
    named = [entry(count=2, line=9), entry(count=3, line=8, kind="answer", asked="torch.cuda.x")]
    busier = [entry(count=count, line=count, asked=unnamed) for count in (30, 40, 50)]
    _, *shown = lines(*busier, *named, busiest=3)
    assert [line.split()[0] for line in shown] == ["50x", "3x", "2x", "and"]


def test_columns_are_aligned():
    _, first, second = lines(entry(count=1200, line=31, asked="no device"), entry())
    assert first == "  1,200x  train.py:31  no device -> cpu"
    assert second == "      1x  train.py:3   cuda -> cpu       x = x.cuda()"


def test_a_long_source_line_is_cut():
    assert lines(entry(line=9))[1].endswith("  " + "y" * 57 + "...")


@pytest.mark.parametrize(
    ("file", "line", "shown"),
    [
        ("/home/me/train.py", 1, "train.py:1"),
        ("/home/me/sub/a.py", 2, "sub/a.py:2"),
        ("/home/you/a.py", 2, "../you/a.py:2"),
        ("/a.py", 2, "/a.py:2"),
        ("<stdin>", 4, "<stdin>:4"),
        ("<unknown>", 0, "<unknown>"),
    ],
)
def test_files_are_relative_where_that_is_shorter(file, line, shown):
    assert lines(entry(file=file, line=line))[1].split()[1] == shown


@pytest.mark.parametrize(
    ("number", "words"), [(1, "1 child process left"), (2, "2 child processes left")]
)
@pytest.mark.parametrize("entries", [(), (entry(),)])
def test_processes_that_left_no_counts_are_told_last(entries, number, words):
    shown = lines(*entries, unreported=number)
    assert shown[-1].startswith(f"torchdevice: {words} no counts")
    assert shown[:-1] == lines(*entries)

"""What two results of a test come to, and which errors count as one cause."""

from __future__ import annotations

import pytest

from torchdevice_mode._tester.causes import cause_of, normalised
from torchdevice_mode._tester.compare import CATEGORIES, compare
from torchdevice_mode._tester.results import UnitResult
from torchdevice_mode._tester.stream import Error, Result


def unit(run, **results):
    found = {name: r if isinstance(r, Result) else Result(r) for name, r in results.items()}
    return {"/p/test_a.py": UnitResult("/p/test_a.py", run, found)}


def categories(plain, redirected):
    found = compare("redirected", unit("plain", **plain), unit("redirected", **redirected))
    return {change.test: change.category for change in found.changes}


def error(message, kind="RuntimeError", place="/x/torch/nn.py:3 in forward"):
    return Error(kind, message, place)


@pytest.mark.parametrize(
    ("plain", "redirected", "category"),
    [
        ("passed", "passed", "passing alike"),
        ("passed", "xpassed", "passing alike"),
        ("xfailed", "passed", "passing alike"),
        ("passed", "failed", "newly failing"),
        ("passed", "error", "newly failing"),
        ("passed", "crashed", "newly failing"),
        ("passed", "timeout", "newly failing"),
        ("xfailed", "failed", "newly failing"),
        ("failed", "passed", "newly passing"),
        ("error", "xfailed", "newly passing"),
        ("failed", "failed", "failing alike"),
        ("failed", "crashed", "failing with another error"),
        ("skipped", "skipped", "skipped alike"),
        ("skipped", "passed", "only redirected, passing"),
        ("skipped", "failed", "only redirected, failing"),
        (None, "passed", "only redirected, passing"),
        (None, "error", "only redirected, failing"),
        ("passed", "skipped", "newly skipped"),
        ("failed", "skipped", "newly skipped"),
        ("passed", None, "vanished"),
        ("failed", None, "vanished"),
    ],
)
def test_two_outcomes_are_one_category(plain, redirected, category):
    one = {} if plain is None else {"t": plain}
    two = {} if redirected is None else {"t": redirected}
    assert categories(one, two) == {"t": category}
    assert category in CATEGORIES


def test_the_same_error_is_alike_and_another_is_not():
    one = Result("failed", error=error("size 3 at 0x7f01"))
    same = Result("failed", error=error("size 12 at 0x7f02"))
    other = Result("failed", error=error("no kernel"))
    assert categories({"t": one}, {"t": same}) == {"t": "failing alike"}
    assert categories({"t": one}, {"t": other}) == {"t": "failing with another error"}


@pytest.mark.parametrize("again", [["passed"], ["failed", "passed"]])
def test_what_passes_when_repeated_is_flaky(again):
    flaky = Result("failed", error=error("x"), again=again)
    assert categories({"t": "passed"}, {"t": flaky}) == {"t": "flaky"}
    assert categories({"t": flaky}, {"t": "passed"}) == {"t": "flaky"}
    steady = Result("failed", error=error("x"), again=["failed"])
    assert categories({"t": "passed"}, {"t": steady}) == {"t": "newly failing"}


def test_tests_of_a_file_that_cannot_be_imported_fail_with_its_error():
    broken = Result("error", error=error("no CUDA"), target="file")
    plain = {"test_a.py::one": "passed", "test_a.py::two": "passed", "test_a.py::three": "skipped"}
    found = compare("r", unit("plain", **plain), unit("r", **{"test_a.py": broken}))
    failing = [change.test for change in found.changes if change.category == "newly failing"]
    assert failing == ["test_a.py::one", "test_a.py::two"]
    [group] = found.groups
    assert [change.test for change in group.changes] == failing


def test_a_file_that_is_skipped_as_a_whole_is_compared_by_its_tests():
    skipped = Result("skipped", target="file")
    assert categories({"test_a.py": skipped}, {"test_a.py::one": "passed"}) == {
        "test_a.py::one": "only redirected, passing"
    }


def test_what_did_not_run_after_a_crash_fails_with_it():
    crash = Result("crashed", error=Error("Crash", "SIGSEGV"))
    plain = {"one": "passed", "two": "passed"}
    assert categories(plain, {"one": crash, "two": "not run"}) == {
        "one": "newly failing",
        "two": "newly failing",
    }
    assert categories({"one": "not run"}, {"one": "not run"}) == {}


def test_failures_are_grouped_by_cause_the_worst_first():
    plain = {"a": "passed", "b": "passed", "c": "passed", "d": "skipped"}
    after = {
        "a": Result("failed", error=error("rare")),
        "b": Result("failed", error=error("size 1")),
        "c": Result("failed", error=error("size 2")),
        "d": Result("failed", error=error("skipped before")),
    }
    groups = compare("r", unit("plain", **plain), unit("r", **after)).groups
    assert [[change.test for change in group.changes] for group in groups] == [
        ["b", "c"],
        ["a"],
        ["d"],
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("at 0x7f3a", "at 0x11"),
        ("got 3 of 12", "got 4 of 1"),
        ("1.5e-3 != 2", "-0.25 != 3"),
        ("shape [1, 2, 3]", "shape [4]"),
        ("on cuda:0", "on cuda:1"),
        ("no file /tmp/a/b.txt", "no file /tmp/c.txt"),
        ("first\nsecond 1", "first\nother"),
        ("\n  first", "first"),
    ],
)
def test_messages_that_differ_in_numbers_are_one(one, other):
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("on cuda:0", "on mps:0"), ("no float64", "no float32"), ("aten::mm", "aten::bmm")],
)
def test_messages_that_differ_in_words_are_not(one, other):
    assert normalised(one) != normalised(other)


def test_an_assertion_that_says_nothing_is_told_by_its_place():
    places = [f"/p/test_a.py:{line} in test_{line}" for line in (1, 2)]
    bare = {cause_of(Error("AssertionError", "assert False", place)) for place in places}
    said = {cause_of(Error("AssertionError", "assert 1 == 2", place)) for place in places}
    assert (len(bare), len(said)) == (2, 1)


@pytest.mark.parametrize(
    ("place", "kept"),
    [
        ("/x/torch/nn/linear.py:9 in forward", "nn/linear.py in forward"),
        ("/p/tests/test_a.py:9 in test_one", ""),
        ("/p/unit.py:1 in test_one", ""),
        ("/p/a_test.py:1 in test_one", ""),
        ("", ""),
    ],
)
def test_a_place_in_the_tests_tells_no_cause(place, kept):
    assert cause_of(Error("E", "m", place), "/p/unit.py") == ("E", "m", kept)

"""Counting by call site: what is one site, what threads add up to, and that memory stays small."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import torchdevice_mode
from torchdevice_mode._ledger import Entry, Ledger, Place, Site, _Counts, event

EVENT = ("redirection", "cuda", "cpu", "because")


def here():
    return sys._getframe(1)


@pytest.fixture
def ledger():
    return Ledger()


def test_an_empty_ledger_has_no_entries(ledger):
    assert ledger.entries() == []
    assert ledger.total() == 0


def test_an_entry_says_where_and_what(ledger):
    frame = here()
    line = frame.f_lineno + 1
    ledger.count(here(), event(*EVENT))
    (entry,) = ledger.entries()
    assert entry == Entry(Site(__file__, line, entry.site.function, *EVENT), 1)
    assert entry.site.function == "test_an_entry_says_where_and_what"


def test_a_site_is_new_once(ledger):
    new = [ledger.count(here(), event(*EVENT)) for _ in range(4)]
    assert new == [True, False, False, False]
    assert [entry.count for entry in ledger.entries()] == [4]


@pytest.mark.parametrize("position", range(4), ids=["kind", "asked", "given", "reason"])
def test_what_happens_at_a_line_is_part_of_its_site(ledger, position):
    other = list(EVENT)
    other[position] = "other"
    for texts in (EVENT, EVENT, other):
        ledger.count(here(), event(*texts))
    assert [entry.count for entry in ledger.entries()] == [2, 1]
    assert ledger.total() == 3


def test_lines_are_sites_of_their_own(ledger):
    ledger.count(here(), event(*EVENT))
    ledger.count(here(), event(*EVENT))
    first, second = sorted(entry.site.line for entry in ledger.entries())
    assert second == first + 1


def test_functions_made_anew_by_one_line_are_one_site(ledger):
    program = compile("ledger.count(here(), event(*EVENT))", "program.py", "exec")
    again = compile("ledger.count(here(), event(*EVENT))", "program.py", "exec")
    for code in (program, again):
        exec(code, {"ledger": ledger, "here": here, "event": event, "EVENT": EVENT})
    assert [(entry.site.file, entry.count) for entry in ledger.entries()] == [("program.py", 2)]


def test_an_event_without_a_frame_has_an_unknown_place(ledger):
    ledger.count(None, event(*EVENT))
    (entry,) = ledger.entries()
    assert (entry.site.file, entry.site.line, entry.site.function) == ("<unknown>", 0, "<unknown>")


def test_the_busiest_come_first(ledger):
    for times, asked in ((2, "second"), (3, "first"), (1, "third")):
        for _ in range(times):
            ledger.count(here(), event("redirection", asked, "cpu", "because"))
    assert [entry.site.asked for entry in ledger.entries()] == ["first", "second", "third"]


def test_totals_are_by_kind_or_of_all(ledger):
    for kind in ("redirection", "adoption", "redirection"):
        ledger.count(here(), event(kind, "a", "b", "c"))
    assert [ledger.total(kind) for kind in ("redirection", "adoption", "stub", None)] == [
        2,
        1,
        0,
        3,
    ]


def test_threads_that_count_at_once_lose_nothing(ledger):
    start = threading.Barrier(8)

    def count():
        start.wait()
        for _ in range(2000):
            ledger.count(here(), event(*EVENT))

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert ledger.total() <= 16000  # reading meanwhile is allowed
    for thread in threads:
        thread.join()
    assert [entry.count for entry in ledger.entries()] == [16000]


def test_counts_of_threads_that_ended_are_kept_and_their_dictionaries_are_not(ledger):
    for _ in range(50):
        thread = threading.Thread(target=lambda: ledger.count(here(), event(*EVENT)))
        thread.start()
        thread.join()
    assert ledger.total() == 50
    assert len(ledger._threads) <= 2


def test_a_pools_threads_count_while_they_live(ledger):
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: ledger.count(here(), event(*EVENT)), range(20)))
        assert ledger.total() == 20
    assert ledger.total() == 20


def test_memory_grows_with_sites_and_not_with_calls(ledger):
    for _ in range(10_000):
        ledger.count(here(), event(*EVENT))
    (counts,) = (counts for _, counts in ledger._threads)
    assert (len(counts.sites), len(counts.places)) == (1, 1)


def test_memory_does_not_grow_with_code_that_is_made_anew(ledger, monkeypatch):
    monkeypatch.setattr(_Counts, "_MOST_PLACES", 10)
    for _ in range(100):
        code = compile("ledger.count(here(), event(*EVENT))", "program.py", "exec")
        exec(code, {"ledger": ledger, "here": here, "event": event, "EVENT": EVENT})
    (counts,) = (counts for _, counts in ledger._threads)
    assert (len(counts.sites), ledger.total()) == (1, 100)
    assert len(counts.places) <= 10
    assert len(counts._alive) <= 10


def test_two_places_on_a_line_are_one_site(ledger):
    new = [ledger.count(here(), event(*EVENT)), ledger.count(here(), event(*EVENT))]
    assert new == [True, False]
    assert [entry.count for entry in ledger.entries()] == [2]


# --- the ledger of the process ----------------------------------------------------------------


@pytest.fixture
def counted():
    """What was counted on lines of this file since the test began, by line."""

    def lines():
        found = {}
        for entry in torchdevice_mode.ledger().entries():
            if entry.site.file == __file__:
                found[entry.site.line] = found.get(entry.site.line, 0) + entry.count
        return found

    before = lines()
    return lambda: {
        line: count - before.get(line, 0)
        for line, count in sorted(lines().items())
        if count != before.get(line, 0)
    }


@pytest.fixture
def outside():
    """A device that no redirection has seen yet."""
    with torchdevice_mode.native():
        return torch.device("cuda")


def test_a_redirection_is_counted_at_the_users_line(redirected, counted, outside):
    first = here().f_lineno + 2
    for _ in range(3):
        torch.zeros(1, device="cuda")
    torch.ones(1, device=outside).cuda()
    assert counted() == {first: 3, first + 1: 2}


def test_what_torch_does_for_the_user_is_counted_at_the_users_line(redirected, counted):
    line = here().f_lineno + 1
    torch.nn.Linear(2, 2, device="cuda")
    (counts,) = counted().items()
    assert counts[0] == line
    assert counts[1] >= 2  # weight and bias


def test_what_is_not_redirected_is_not_counted(redirected, counted):
    with torchdevice_mode.native():
        x = torch.zeros(2)
    x + x
    x.to(torch.float16)
    torch.zeros(1, device="meta")
    assert counted() == {}


def test_a_started_thread_counts_at_its_own_line(redirected, counted):
    line = here().f_lineno + 3

    def work():
        torch.zeros(1, device="cuda")

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted() == {line: 3}


def test_backward_counts_at_the_line_of_the_function(redirected, counted):
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            return gradient * torch.full((1,), 2.0, device="cuda")

    x = torch.ones(1, device="cuda", requires_grad=True)
    line = Doubled.backward.__code__.co_firstlineno + 2
    before = counted().get(line, 0)
    Doubled.apply(x).backward()
    assert counted()[line] - before == 1


@pytest.mark.simulated
def test_a_call_that_is_made_again_is_counted_once(redirected, counted):
    line = here().f_lineno + 3
    with pytest.warns(torchdevice_mode.TorchDeviceWarning):
        for _ in range(3):
            torch.ones(2, device="cuda", dtype=torch.float64)
    assert counted() == {line: 6}  # a redirection and a downcast each


@pytest.mark.simulated
def test_what_a_call_made_again_counts_elsewhere_is_counted(redirected, counted, outside):
    def doubled(gradient):
        return gradient * torch.full((1,), 2.0, device="cuda")

    x = torch.ones(1, device="cuda", requires_grad=True)
    x.register_hook(doubled)
    line = doubled.__code__.co_firstlineno + 1
    for _ in range(2):
        (x * torch.ones(1, device=outside)).sum().backward()
    assert counted()[line] == 2


@pytest.mark.parametrize("places", [1, 2])
def test_a_redirection_of_a_repeated_call_is_skipped_once(ledger, places):
    what, other = event(*EVENT), event("adoption", "a CPU tensor", "cpu", "because")
    frame = here()
    line = frame.f_lineno
    frames = [Place(frame.f_code, line, position) for position in range(places)]
    for one in frames:
        ledger.count(one, what)
    with ledger.counting_once(frames[0]):
        assert ledger.count(frames[0], what) is False
        ledger.add_cost(frames[0], what, moved=8, seconds=0.5)
        ledger.count(frames[0], other)
    ledger.count(frames[0], what)
    assert {entry.site.kind: entry[1:] for entry in ledger.entries()} == {
        "redirection": (places + 1, 8, 0.5),
        "adoption": (1, 0, 0.0),
    }


def test_an_event_without_a_place_is_not_counted_again_by_a_repeated_call(ledger):
    for _ in range(2):
        ledger.count(None, event(*EVENT))
        with ledger.counting_once(None):
            ledger.count(None, event(*EVENT))
    assert ledger.total() == 2


def test_equal_code_of_two_files_is_counted_apart():
    ledger = Ledger()
    for file in ("one.py", "two.py"):
        held = {"sys": sys}
        exec(compile("def here():\n    return sys._getframe()", file, "exec"), held)
        ledger.count(held["here"](), event("redirection", "cuda", "cpu", "a reason"))
    assert {entry.site.file for entry in ledger.entries()} == {"one.py", "two.py"}

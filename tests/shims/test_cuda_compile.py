"""torch.compile of code that calls torch.cuda."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch
import torch._dynamo.testing

from torchdevice_mode import redirect

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("fresh_dynamo")]


def available(x):
    return x + 1 if torch.cuda.is_available() else x


def numbers(x):
    return x + torch.cuda.current_device() + torch.cuda.device_count()


def properties(x):
    return x + torch.cuda.get_device_properties(0).major + torch.cuda.get_device_capability()[1]


def bfloat16(x):
    return x + 1 if torch.cuda.is_bf16_supported() else x


def waiting(x):
    y = x + 1
    torch.cuda.synchronize()
    return y


def selecting(x):
    torch.cuda.set_device(0)
    with torch.cuda.device(0):
        return x + 1


def marking(x):
    torch.cuda.nvtx.range_push("a")
    y = x + 1
    torch.cuda.nvtx.range_pop()
    return y


def capturing(x):
    return x if torch.cuda.is_current_stream_capturing() else x + 1


def autocasting(x):
    with torch.autocast("cuda", dtype=torch.bfloat16):
        return x @ x


def old_autocasting(x):
    with torch.cuda.amp.autocast():
        return x @ x


def asking_autocast(x):
    with torch.autocast("cuda"):
        return x + (1 if torch.is_autocast_enabled() else 2)


WHOLE = [available, numbers, properties, bfloat16, waiting, selecting, marking, capturing,
         autocasting, asking_autocast]  # fmt: skip
OLD = pytest.param(
    old_autocasting,
    marks=pytest.mark.xfail(
        sys.version_info >= (3, 13), reason="Dynamo of torch 2.13 fails on it by itself"
    ),
)


@pytest.mark.parametrize("function", [*WHOLE, OLD], ids=lambda f: f.__name__)
def test_a_call_of_torch_cuda_stays_in_the_graph(function):
    with redirect():
        x = torch.ones(2, 2, device="cuda")
        compiled = torch.compile(function, fullgraph=True, backend="eager")
        assert torch.equal(compiled(x), function(x))
        assert compiled(x).dtype is function(x).dtype


def measuring(x):
    return x + 0 * torch.cuda.memory_allocated()


def streaming(x):
    with torch.cuda.stream(torch.cuda.Stream()):
        return x + 1


def waiting_for_stream(x):
    torch.cuda.current_stream().synchronize()
    return x + 1


def timing(x):
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return x + 1


def typing(x):
    return x + (1 if isinstance(x, torch.cuda.FloatTensor) else 2)


def seeding(x):
    torch.cuda.manual_seed(1)
    return x + torch.rand_like(x)


@pytest.mark.parametrize(
    "function",
    [measuring, streaming, waiting_for_stream, timing, typing, seeding],
    ids=lambda f: f.__name__,
)
def test_what_acts_at_run_time_ends_the_graph_and_is_right(function):
    with redirect():
        x = torch.ones(2, 2, device="cuda")
        compiled = torch.compile(function, backend="eager")
        assert torch.equal(compiled(x), function(x))


def test_events_and_streams_made_outside_work_inside():
    with redirect():
        event, stream = torch.cuda.Event(), torch.cuda.Stream()

        def use(x):
            event.record(stream)
            stream.synchronize()
            return x + 1

        compiled = torch.compile(use, backend="eager")
        assert compiled(torch.ones(1, device="cuda")).item() == 2.0
        assert event.query()


def test_compiled_code_is_plain_after_redirection():
    compiled = torch.compile(available, backend="eager")
    x = torch.ones(1)
    plain = available(x)
    with redirect():
        assert compiled(torch.ones(1, device="cuda")).item() == 2.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(compiled(x), plain)


def test_code_compiled_under_one_redirection_is_not_compiled_again_under_the_next():
    compiled = torch._dynamo.testing.CompileCounter()

    @torch.compile(backend=compiled)
    def make(x):
        return x + torch.ones(2, device="cuda")

    for _ in range(3):
        with redirect():
            make(torch.zeros(2, device="cuda"))
    assert compiled.frame_count == 1


def test_streams_and_events_are_compared_as_objects():
    with redirect():
        event, stream = torch.cuda.Event(), torch.cuda.Stream()
        assert event == event and event != torch.cuda.Event()
        assert stream == stream and stream != torch.cuda.default_stream()


@pytest.mark.parametrize("name", ["_exchange_device", "_maybe_exchange_device"])
def test_a_graph_finds_an_answer_by_its_name(name):
    with redirect():
        answer = getattr(torch.cuda, name)
        module, found = answer.__module__, answer.__name__
        assert (module, found) == ("torch.cuda", name)


MADE = {
    "arange": lambda: torch.arange(3, device="cuda"),
    "linspace": lambda: torch.linspace(0, 1, 3, device="cuda"),
    "normal": lambda: torch.normal(0.0, 1.0, (2,), device="cuda"),
    "rand": lambda: torch.rand(2, device="cuda"),
    "rand_like": lambda: torch.rand_like(torch.ones(2), device="cuda"),
    "randint": lambda: torch.randint(0, 3, (2,), device="cuda:0"),
    "randn": lambda: torch.randn(2, device=torch.device("cuda")),
    "randperm": lambda: torch.randperm(3, device="cuda"),
    "tensor": lambda: torch.tensor([1.0], device="cuda"),
    "tril_indices": lambda: torch.tril_indices(2, 2, device="cuda"),
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_a_tensor_is_made_on_the_target_in_the_graph(make, target):
    with redirect():
        compiled = torch.compile(make, fullgraph=True, backend="eager")
        assert compiled().device == target
        assert compiled().dtype is make().dtype


def test_dynamo_asks_modes_for_what_it_did_before_after_redirection():
    from torch._dynamo.variables import torch as tables

    before = tables.get_overridable_functions
    with redirect():
        assert torch.rand_like in tables.get_overridable_functions()
    assert tables.get_overridable_functions is before
    assert torch.ones in before()

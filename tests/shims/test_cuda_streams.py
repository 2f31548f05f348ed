"""torch.cuda: streams and events keep CUDA's rules on a target with one queue."""

from __future__ import annotations

import threading
import time

import pytest
import torch

import torchdevice_mode

pytestmark = pytest.mark.usefixtures("redirected")


def test_the_current_stream_follows_the_block():
    default = torch.cuda.default_stream()
    side = torch.cuda.Stream()
    assert torch.cuda.current_stream() == default != side
    with torch.cuda.stream(side):
        assert torch.cuda.current_stream() == side
        with torch.cuda.stream(None):
            assert torch.cuda.current_stream() == side
        with torch.cuda.stream(default):
            assert torch.cuda.current_stream() == default
        assert torch.cuda.current_stream() is side
    assert torch.cuda.current_stream() == default


def test_a_stream_is_a_block_itself():
    side = torch.cuda.Stream()
    with side:
        assert torch.cuda.current_stream() == side
    assert torch.cuda.current_stream() != side


def test_an_exception_leaves_the_stream():
    side = torch.cuda.Stream()
    with pytest.raises(ZeroDivisionError), torch.cuda.stream(side):
        _ = 1 / 0
    assert torch.cuda.current_stream() == torch.cuda.default_stream()


def test_the_current_stream_is_the_threads():
    side = torch.cuda.Stream()
    seen = []
    with torch.cuda.stream(side):
        thread = threading.Thread(target=lambda: seen.append(torch.cuda.current_stream()))
        thread.start()
        thread.join()
    assert seen == [torch.cuda.default_stream()]


def test_a_stream_can_be_set():
    side = torch.cuda.Stream()
    torch.cuda.set_stream(side)
    try:
        assert torch.cuda.current_stream() == side
    finally:
        torch.cuda.set_stream(torch.cuda.default_stream())


def test_streams_compare_and_hash_by_what_they_are():
    first, second = torch.cuda.Stream(), torch.cuda.Stream()
    assert first != second and first == first
    assert len({first, second, torch.cuda.default_stream(), torch.cuda.default_stream()}) == 3
    assert first != "stream"
    assert torch.cuda.default_stream().cuda_stream == 0 != first.cuda_stream


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.cuda.Stream(),
        lambda: torch.cuda.ExternalStream(9),
        lambda: torch.Stream("cuda"),
        lambda: torch.Stream(),
    ],
)
def test_streams_are_streams(make):
    made = make()
    assert isinstance(made, torch.Stream) and isinstance(made, torch.cuda.Stream)


def test_events_are_events():
    for event in (torch.cuda.Event(), torch.Event("cuda"), torch.Event()):
        assert isinstance(event, torch.Event) and isinstance(event, torch.cuda.Event)


def test_a_stream_is_on_the_target(target):
    stream = torch.cuda.Stream(device="cuda:0", priority=-1)
    assert stream.device == target == torch.ones(1, device="cuda").device
    assert stream.priority == -1
    assert torch.cuda.Stream(priority=-100).priority == torch.cuda.Stream.priority_range()[1]


def test_work_is_ordered_over_streams():
    side = torch.cuda.Stream()
    x = torch.ones(64, 64, device="cuda")
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        y = x @ x
    event = side.record_event()
    torch.cuda.current_stream().wait_event(event)
    torch.cuda.current_stream().wait_stream(side)
    side.synchronize()
    assert side.query() is True and event.query() is True
    assert y[0, 0].item() == 64.0


def test_elapsed_time_is_the_time_between():
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    time.sleep(0.05)
    end.record(torch.cuda.current_stream())
    end.synchronize()
    assert 50 <= start.elapsed_time(end) < 500
    assert end.elapsed_time(start) == -start.elapsed_time(end)


def test_an_event_can_be_recorded_again():
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    time.sleep(0.02)
    start.record()
    end.record()
    assert start.elapsed_time(end) < 20


@pytest.mark.parametrize(
    ("timing", "message"),
    [((False, True), "enable_timing=True"), ((True, False), "enable_timing=True"),
     ((True, True), "must be recorded before")],
)  # fmt: skip
def test_elapsed_time_fails_as_on_cuda(timing, message):
    start, end = (torch.cuda.Event(enable_timing=value) for value in timing)
    with pytest.raises(ValueError, match=message):
        start.elapsed_time(end)


def test_an_unrecorded_event_is_done():
    event = torch.cuda.Event(blocking=True)
    assert event.query() is True
    event.synchronize()
    event.wait()
    assert repr(event) == "<torch.cuda.Event uninitialized>"


def test_an_event_cannot_be_shared_with_a_process():
    with pytest.raises(NotImplementedError, match=r"Event\.ipc_handle"):
        torch.cuda.Event(interprocess=True).ipc_handle()


def test_no_stream_is_being_captured():
    assert torch.cuda.is_current_stream_capturing() is False
    assert torch.cuda.current_stream().is_capturing() is False


def test_streams_can_be_subclassed():
    class Named(torch.cuda.Stream):
        pass

    assert isinstance(Named(), torch.cuda.Stream)


def test_outside_of_redirection_torch_decides():
    with torchdevice_mode.native():
        cpu = torch.Stream("cpu")
        assert type(cpu).__module__ == "torch"
        assert not isinstance(cpu, torch.cuda.Stream)

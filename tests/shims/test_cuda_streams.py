"""torch.cuda: streams and events keep CUDA's rules on a target with one queue."""

from __future__ import annotations

import copy
import ctypes
import pickle
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


# --- what they are ------------------------------------------------------------------------------


def test_a_block_can_be_entered_again_inside_itself():
    side, other = torch.cuda.Stream(), torch.cuda.Stream()
    with side, other, side:
        assert torch.cuda.current_stream() == side
    assert torch.cuda.current_stream() == torch.cuda.default_stream()


def test_the_streams_of_a_block_are_its_threads():
    side = torch.cuda.Stream()
    seen = []

    def work():
        with torch.cuda.stream(side):
            seen.append(torch.cuda.current_stream())
        seen.append(torch.cuda.current_stream())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen.count(side) == seen.count(torch.cuda.default_stream()) == 3


def test_a_stream_of_an_earlier_redirection_with_another_target_is_not_current():
    if not torch.backends.mps.is_available():
        pytest.skip("needs the simulated device")
    torch.cuda.set_stream(torch.cuda.Stream())
    try:
        with torchdevice_mode.redirect(target="cpu"):
            assert torch.cuda.current_stream().device.type == "cpu"
    finally:
        torch.cuda.set_stream(torch.cuda.default_stream())


@pytest.mark.parametrize("device", [None, 0, -1, "cuda", "cuda:3", torch.device("cuda")], ids=str)
def test_a_stream_is_made_for_a_device(device, target):
    assert torch.cuda.Stream(device).device == target
    assert torch.Stream(device=device).device == target
    assert torch.cuda.ExternalStream(7, device).device == target


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: torch.cuda.Stream(99), RuntimeError),
        (lambda: torch.Stream(99), RuntimeError),
        (lambda: torch.Event(99), RuntimeError),
        (lambda: torch.cuda.ExternalStream(7, 99), RuntimeError),
        (lambda: torch.cuda.current_stream(99), RuntimeError),
        (lambda: torch.cuda.default_stream(99), RuntimeError),
        (lambda: torch.cuda.Stream("meta"), ValueError),
        (lambda: torch.cuda.Stream(priority="high"), TypeError),
        (lambda: torch.cuda.Stream(speed=1), TypeError),
        (lambda: torch.cuda.Event(True, speed=1), TypeError),
        (lambda: torch.cuda.stream("side").__enter__(), AttributeError),
        (lambda: torch.cuda.set_stream(1), AttributeError),
        (lambda: torch.cuda.Stream().wait_stream(None), AttributeError),
        (lambda: torch.cuda.Stream().wait_event(None), AttributeError),
        (lambda: torch.cuda.Event().record("side"), TypeError),
        (lambda: torch.cuda.Event().wait("side"), TypeError),
        (lambda: torch.cuda.Event().elapsed_time(None), TypeError),
        (lambda: torch.cuda.ExternalStream(), TypeError),
    ],
)
def test_what_cuda_refuses_is_refused(make, error):
    with pytest.raises(error):
        make()
    assert torch.cuda.current_stream() == torch.cuda.default_stream()


def test_a_stream_can_be_made_again_from_its_numbers():
    side = torch.cuda.Stream()
    numbers = {
        "stream_id": side.stream_id,
        "device_index": side.device_index,
        "device_type": side.device_type,
    }
    assert torch.cuda.Stream(**numbers) == side
    assert torch.Stream(**numbers) == side and side == torch.Stream(**numbers)
    torch.cuda._set_stream_by_id(**numbers)
    try:
        assert torch.cuda.current_stream() == side
    finally:
        torch.cuda.set_stream(torch.cuda.default_stream())


def test_an_external_stream_has_its_handle():
    stream = torch.cuda.ExternalStream(1234)
    assert stream.cuda_stream == stream.native_handle == 1234
    assert stream._as_parameter_.value == ctypes.c_void_p(1234).value
    assert stream.__cuda_stream__() == (0, 1234)
    assert stream == torch.cuda.get_stream_from_external(1234)
    assert stream != torch.cuda.Stream() and isinstance(stream, torch.cuda.Stream)


@pytest.mark.parametrize(
    ("asked", "given"), [(0, 0), (-1, -1), (5, 0), (-3, -3), (-9, -3), (True, 0)]
)
def test_a_priority_is_brought_into_the_range(asked, given):
    lowest, highest = torch.cuda.Stream.priority_range()
    assert highest <= torch.cuda.Stream(priority=asked).priority == given <= lowest
    assert torch.Stream(priority=asked).priority == given


def test_classes_are_related_as_on_cuda():
    assert issubclass(torch.cuda.Stream, torch.Stream)
    assert issubclass(torch.cuda.ExternalStream, torch.cuda.Stream)
    assert issubclass(torch.cuda.Event, torch.Event)
    assert torch.cuda.streams.Stream is torch.cuda.Stream
    assert torch.cuda.streams.Event is torch.cuda.Event
    assert not isinstance(torch.cuda.Event(), torch.Stream)
    assert torch.cuda.Stream.__module__ == torch.cuda.Event.__module__ == "torch.cuda.streams"


@pytest.mark.parametrize("make", [lambda: torch.cuda.Stream(), lambda: torch.cuda.Event()])
@pytest.mark.parametrize("work", [copy.copy, copy.deepcopy, pickle.dumps])
def test_neither_can_be_copied_or_pickled(make, work):
    with pytest.raises(TypeError, match="cannot pickle"):
        work(make())


def test_a_tensor_can_be_recorded_on_a_stream():
    x = torch.ones(3, device="cuda")
    assert x.record_stream(torch.cuda.Stream()) is None
    assert x.record_stream(torch.cuda.current_stream()) is None


OPTIONS = ["enable_timing", "blocking", "interprocess", "external"]


@pytest.mark.parametrize("option", OPTIONS)
def test_an_event_takes_every_option(option):
    event = torch.cuda.Event(**{option: True})
    event.record()
    event.synchronize()
    assert event.query() is True


def test_an_event_has_a_device_and_a_handle_once_it_is_recorded(target):
    event = torch.cuda.Event()
    assert event.device is None and event.cuda_event == event.event_id == 0
    torch.cuda.current_stream().record_event(event)
    assert event.device == target and event.cuda_event == event._as_parameter_.value != 0
    assert repr(event) == f"<torch.cuda.Event {event.cuda_event:#x}>"
    assert torch.Event("cuda").device == target


def test_events_are_equal_to_themselves_alone():
    first, second = torch.cuda.Event(), torch.cuda.Event()
    assert first == first != second and len({first, second, first}) == 2


def test_an_event_of_another_process_cannot_be_had():
    with pytest.raises(NotImplementedError, match=r"Event\.ipc_handle"):
        torch.cuda.Event.from_ipc_handle("cuda", b"0" * 64)


def test_events_of_torch_measure_time_too():
    start, end = (torch.Event(device="cuda", enable_timing=True) for _ in range(2))
    start.record(torch.cuda.current_stream())
    time.sleep(0.02)
    end.record()
    assert start.elapsed_time(end) >= 20
    with pytest.raises(ValueError, match="enable_timing=True"):
        torch.Event("cuda").elapsed_time(end)


def test_streams_can_be_subclassed():
    class Named(torch.cuda.Stream):
        pass

    assert isinstance(Named(), torch.cuda.Stream)


def test_outside_of_redirection_torch_decides():
    with torchdevice_mode.native():
        cpu = torch.Stream("cpu")
        assert type(cpu).__module__ == "torch"
        assert not isinstance(cpu, torch.cuda.Stream)

"""Annotations and type checks with torch's classes hold under redirection as in plain torch."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import pickle
import sys
import typing
from typing import Annotated, Optional, Union

import pytest
import torch

import torchdevice_mode

pytestmark = pytest.mark.usefixtures("redirected")

CLASSES = {
    "torch.device": lambda: torch.device,
    "torch.Generator": lambda: torch.Generator,
    "torch.Stream": lambda: torch.Stream,
    "torch.Event": lambda: torch.Event,
    "torch.cuda.Stream": lambda: torch.cuda.Stream,
    "torch.cuda.ExternalStream": lambda: torch.cuda.ExternalStream,
    "torch.cuda.Event": lambda: torch.cuda.Event,
    "torch.dtype": lambda: torch.dtype,
    "torch.Tensor": lambda: torch.Tensor,
    "torch.autocast": lambda: torch.autocast,
    "torch.amp.GradScaler": lambda: torch.amp.GradScaler,
}
OBJECTS = {
    "torch.device": lambda: torch.device("cuda"),
    "torch.Generator": lambda: torch.Generator("cuda"),
    "torch.Stream": lambda: torch.Stream(),
    "torch.Event": lambda: torch.Event(),
    "torch.cuda.Stream": lambda: torch.cuda.Stream(),
    "torch.cuda.Event": lambda: torch.cuda.Event(),
    "torch.Tensor": lambda: torch.ones(1, device="cuda"),
    "torch.autocast": lambda: torch.autocast("cuda"),
    "torch.amp.GradScaler": lambda: torch.amp.GradScaler("cuda"),
}
# What is an instance of what, beside its own class: CUDA's streams are torch's.
ALSO = {
    ("torch.cuda.Stream", "torch.Stream"),
    ("torch.cuda.Event", "torch.Event"),
    ("torch.cuda.ExternalStream", "torch.Stream"),
    ("torch.cuda.ExternalStream", "torch.cuda.Stream"),
    # torch gives CUDA's own where the device is CUDA.
    ("torch.Stream", "torch.cuda.Stream"),
    ("torch.Event", "torch.cuda.Event"),
}


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("other", CLASSES)
@pytest.mark.off_cuda
def test_isinstance_holds_for_an_objects_own_classes_only(name, other):
    instance, kind = OBJECTS[name](), CLASSES[other]()
    expected = name == other or (name, other) in ALSO
    assert isinstance(instance, kind) is expected
    assert isinstance(instance, (int, kind)) is expected
    assert isinstance(instance, kind | None) is expected
    assert not isinstance(None, kind)
    assert not isinstance(3, kind)


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_is_known_by_its_name(name):
    kind = CLASSES[name]()
    assert isinstance(kind, type)
    assert issubclass(kind, kind)
    assert pickle.loads(pickle.dumps(kind)) is kind
    assert copy.deepcopy(kind) is kind
    assert kind.__name__ == name.rpartition(".")[2]
    assert {kind: 1}[kind] == 1
    with torchdevice_mode.native():
        assert kind.__name__ == name.rpartition(".")[2]


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_can_be_part_of_any_type(name):
    kind = CLASSES[name]()
    assert typing.get_args(Optional[kind]) == (kind, type(None))  # noqa: UP045
    assert typing.get_args(Union[kind, str]) == (kind, str)  # noqa: UP007
    assert typing.get_args(kind | None) == (kind, type(None))
    assert typing.get_args(None | kind) == (type(None), kind)
    assert typing.get_args(str | kind) == (str, kind)
    assert typing.get_args(list[kind]) == (kind,)
    assert typing.get_args(dict[str, kind]) == (str, kind)
    assert typing.get_args(type[kind]) == (kind,)
    assert typing.get_args(Annotated[kind, 1]) == (kind, 1)
    assert typing.get_args(typing.Callable[[kind], kind]) == ([kind], kind)
    bound = typing.TypeVar("bound", bound=kind)
    assert bound.__bound__ is kind


def annotated(
    device: torch.device,
    generator: Optional[torch.Generator],  # noqa: UP045
    stream: torch.Stream | None,
    streams: list[torch.cuda.Stream],
    event: Union[torch.cuda.Event, int] = 0,  # noqa: UP007
) -> torch.device: ...


def test_type_hints_can_be_read():
    hints = typing.get_type_hints(annotated)
    assert hints == {
        "device": torch.device,
        "generator": Optional[torch.Generator],  # noqa: UP045
        "stream": torch.Stream | None,
        "streams": list[torch.cuda.Stream],
        "event": torch.cuda.Event | int,
        "return": torch.device,
    }
    assert list(inspect.signature(annotated).parameters) == [n for n in hints if n != "return"]


@pytest.mark.parametrize("register", ["class", "annotation"])
def test_singledispatch_finds_the_function_of_a_class(register):
    @functools.singledispatch
    def describe(value):
        return "other"

    names = ["torch.device", "torch.Generator", "torch.cuda.Event", "torch.cuda.Stream"]
    for name in names:
        if register == "class":
            describe.register(CLASSES[name](), lambda value, name=name: name)
        else:

            def answer(value, name=name):
                return name

            answer.__annotations__ = {"value": CLASSES[name]()}
            describe.register(answer)
    for name in names:
        assert describe(OBJECTS[name]()) == name
    assert describe(torch.default_generator) == "torch.Generator"
    assert describe(3) == "other"


@dataclasses.dataclass
class Configuration:
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cuda"))
    generator: torch.Generator | None = None
    stream: Optional[torch.cuda.Stream] = None  # noqa: UP045
    event: torch.cuda.Event = dataclasses.field(default_factory=lambda: torch.cuda.Event())


@pytest.mark.off_cuda
def test_dataclasses_hold_them(target):
    made = Configuration(generator=torch.Generator("cuda"))
    assert made.device == target
    assert typing.get_type_hints(Configuration)["event"] is torch.cuda.Event
    replaced = dataclasses.replace(made, stream=torch.cuda.Stream())
    assert replaced.generator is made.generator
    plain = Configuration(generator=torch.Generator("cuda"), event=None)
    for copied in (copy.deepcopy(plain), pickle.loads(pickle.dumps(plain))):
        assert copied.device == target
        assert type(copied.generator) is torch.Generator


def test_a_match_statement_finds_the_class():
    def describe(value):
        match value:
            case torch.device(type=kind):
                return kind
            case torch.Generator():
                return "generator"
            case torch.cuda.Event():
                return "event"
            case torch.cuda.Stream():
                return "stream"
        return "other"

    values = [torch.device("cuda"), torch.Generator("cuda"), torch.default_generator]
    values += [torch.cuda.Event(), torch.cuda.Stream(), 3]
    kinds = [torch.device("cuda").type, "generator", "generator", "event", "stream", "other"]
    assert [describe(value) for value in values] == kinds


def test_streams_and_events_can_be_subclassed():
    class Stream(torch.cuda.Stream):
        def __new__(cls, name, **options):
            made = super().__new__(cls, **options)
            made.name = name
            return made

    class Event(torch.cuda.Event):
        tag = 1

        def __init__(self, *arguments, **options):
            self.extra = 2

    stream, event = Stream("mine", priority=-1), Event(enable_timing=True)
    assert (stream.name, event.tag, event.extra) == ("mine", 1, 2)
    assert (type(stream), type(event)) == (Stream, Event)
    assert isinstance(stream, torch.cuda.Stream)
    assert isinstance(event, torch.cuda.Event)
    assert not isinstance(torch.cuda.Stream(), Stream)
    assert not isinstance(torch.cuda.Event(), Event)
    with torch.cuda.stream(stream):
        assert torch.cuda.current_stream() == stream
        event.record()
    event.synchronize()
    assert event.query()


def test_classes_that_were_used_before_redirection_are_the_same_ones():
    with torchdevice_mode.native():
        early = torch._C.Generator
        hint = Optional[early]  # noqa: UP045
        generator = early("cpu")
    assert isinstance(generator, torch.Generator)
    assert isinstance(torch.Generator("cuda"), early)
    assert issubclass(torch.Generator, early)
    assert issubclass(early, torch.Generator)
    assert isinstance(torch.Generator("cuda"), hint)


@pytest.mark.off_cuda
def test_a_device_is_a_plain_one(target):
    device = torch.device("cuda")
    assert type(device) is torch.device
    for copied in (copy.copy(device), copy.deepcopy(device), pickle.loads(pickle.dumps(device))):
        assert copied == device == target
        assert hash(copied) == hash(device)
    assert {device: 1}[torch.ones(1, device="cuda").device] == 1


def test_operators_take_annotated_devices(target):
    def place(x: torch.Tensor, device: torch.device, other: torch.device | None = None):
        return x.to(device).clone()

    place.__annotations__ = {
        "x": torch.Tensor,
        "device": torch.device,
        "other": Optional[torch.device],  # noqa: UP045
        "return": torch.Tensor,
    }
    schema = torch.library.infer_schema(place, mutates_args=())
    assert schema == "(Tensor x, Device device, Device? other=None) -> Tensor"
    operator = torch.library.custom_op("torchdevice_tests::place", place, mutates_args=())
    assert operator(torch.ones(1), torch.device("cuda")).device == target


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="TorchScript is not supported there")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["torch.device", "torch.Generator", "torch.Stream"])
@pytest.mark.parametrize("early", [False, True], ids=["now", "early"])
def test_torchscript_knows_the_classes(name, early):
    from torch.jit import annotations

    with torchdevice_mode.native():
        plain = CLASSES[name]()
        expected = str(annotations.try_ann_to_type(Optional[plain], None))  # noqa: UP045
    kind = plain if early else CLASSES[name]()
    assert str(annotations.try_ann_to_type(kind, None)) in expected
    assert str(annotations.try_ann_to_type(Optional[kind], None)) == expected  # noqa: UP045

"""Requests are read as torch reads them, and what torch refuses is left to torch."""

from __future__ import annotations

import string

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from torchdevice_mode._spec import ABSENT, NOT_A_DEVICE, TOGGLE, DeviceSpec, parse

READABLE = [
    ("cpu", DeviceSpec("cpu")),
    ("cpu:0", DeviceSpec("cpu", 0)),
    ("cuda", DeviceSpec("cuda")),
    ("cuda:3", DeviceSpec("cuda", 3)),
    ("mps:0", DeviceSpec("mps", 0)),
    ("meta", DeviceSpec("meta")),
    ("npu:1", DeviceSpec("npu", 1)),
    (0, DeviceSpec("cuda", 0)),
    (2, DeviceSpec("cuda", 2)),
    (torch.device("cuda", 1), DeviceSpec("cuda", 1)),
    (torch.device("cpu"), DeviceSpec("cpu")),
    (None, ABSENT),
    ("cpu:-1", TOGGLE),
]


@pytest.mark.parametrize(("request_", "spec"), READABLE, ids=repr)
def test_every_form_of_a_request_is_read(request_, spec):
    assert parse(request_) == spec


def str_of_type(value):
    return type(value).__name__ if type(value) is object else repr(value)


@pytest.mark.parametrize(
    "request_",
    ["cuda:x", "cuda:01", "cuda:", "", "CUDA", " cuda", "cpu:-2", "cuda:-1", -1, True, 1.5]
    + [object(), [], "cuda:１", b"cuda", "cuda\n"],
    ids=str_of_type,
)
def test_what_torch_refuses_is_not_a_device(request_):
    assert parse(request_) is NOT_A_DEVICE


@pytest.mark.parametrize(
    ("arguments", "spec"),
    [
        (("cuda", 1), DeviceSpec("cuda", 1)),
        (("cpu", -1), TOGGLE),
        (("cuda", -1), NOT_A_DEVICE),
        (("cuda:1", 1), NOT_A_DEVICE),
        (("cuda", True), NOT_A_DEVICE),
        (("cuda", "1"), NOT_A_DEVICE),
        ((torch.device("cuda"), 1), NOT_A_DEVICE),
    ],
    ids=repr,
)
def test_type_and_index_may_be_given_apart(arguments, spec):
    assert parse(*arguments) == spec


device_like = st.one_of(
    st.text(alphabet=string.ascii_lowercase + string.digits + ":-_ ", max_size=12),
    st.from_regex(r"(cpu|cuda|mps|xpu|meta|npu)(:-?[0-9]{1,4})?", fullmatch=True),
    st.integers(-300, 300),
    st.booleans(),
    st.none(),
    st.floats(),
    st.binary(max_size=4),
)


@given(device_like)
@example("cpu:-1")
@example("cuda:127")
@example("cuda:128")
def test_a_string_that_is_read_says_what_torch_says(request_):
    """Where both torch and the parser read a string, they read the same."""
    spec = parse(request_)
    if not isinstance(request_, str) or spec in (NOT_A_DEVICE, ABSENT, TOGGLE):
        return
    try:
        device = torch.device(request_)
    except RuntimeError as error:
        # Only a type that torch does not know: its grammar is satisfied.
        assert "Expected one of" in str(error)
    else:
        assert (device.type, device.index) == (spec.type, spec.index)


@given(device_like)
def test_the_parser_never_refuses_what_torch_accepts(request_):
    """`NOT_A_DEVICE` means that torch raises, or that the index overflows torch's byte."""
    if not isinstance(request_, str) or parse(request_) is not NOT_A_DEVICE:
        return
    try:
        device = torch.device(request_)
    except RuntimeError:
        return
    assert int(request_.rpartition(":")[2]) > 127, device


@given(device_like, device_like)
def test_the_parser_never_raises(request_, index):
    parse(request_)
    parse(request_, index)

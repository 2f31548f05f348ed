"""The policy table of the specification, row by row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchdevice_mode._machine import Machine
from torchdevice_mode._policy import choose_target, decide
from torchdevice_mode._settings import Settings
from torchdevice_mode._spec import DeviceSpec
from torchdevice_mode.errors import TargetError

MACHINES = {
    "mps": Machine(accelerators=(("mps", 1),)),
    "cuda": Machine(accelerators=(("cuda", 1),)),
    "two cuda": Machine(accelerators=(("cuda", 2),)),
    "xpu": Machine(accelerators=(("xpu", 1),)),
    "cpu": Machine(),
}

# request: what it gets on a machine with MPS, with CUDA, and with neither. None: left to torch.
FORCE = [
    (None, "mps:0", "cuda:0", None),
    ("cpu", "mps:0", "cuda:0", None),
    ("cpu:0", "mps:0", "cuda:0", None),
    (torch.device("cpu"), "mps:0", "cuda:0", None),
    ("cpu:-1", "cpu", "cpu", "cpu"),
    ("mps", None, "cuda:0", "cpu"),
    ("mps:0", None, "cuda:0", "cpu"),
    ("cuda", "mps:0", None, "cpu"),
    ("cuda:3", "mps:0", None, "cpu"),
    (0, "mps:0", None, "cpu"),
    (3, "mps:0", None, "cpu"),
    (torch.device("cuda", 1), "mps:0", None, "cpu"),
    ("xpu", "mps:0", "cuda:0", "cpu"),
    ("hpu:1", "mps:0", "cuda:0", "cpu"),
    ("npu", "mps:0", "cuda:0", "cpu"),
    ("mtia", "mps:0", "cuda:0", "cpu"),
    ("privateuseone:0", "mps:0", "cuda:0", "cpu"),
    ("meta", None, None, None),
    ("cudaa", None, None, None),
    ("cuda:x", None, None, None),
    (object(), None, None, None),
]
EXPLICIT_LEAVES = {None, "cpu", "cpu:0", torch.device("cpu")}


def given_device(decision):
    return None if decision.device is None else str(decision.device)


@pytest.mark.parametrize("machine", ["mps", "cuda", "cpu"])
@pytest.mark.parametrize(
    "row", FORCE, ids=lambda row: "object" if type(row[0]) is object else repr(row[0])
)
def test_force_gives_what_the_table_says(row, machine):
    request, *columns = row
    expected = dict(zip(["mps", "cuda", "cpu"], columns, strict=True))[machine]
    decision = decide(request, MACHINES[machine], Settings(), override_active=False)
    assert given_device(decision) == expected
    assert decision.redirected == (expected is not None and request != "cpu:-1")
    assert decision.reason


@pytest.mark.parametrize("machine", ["mps", "cuda", "cpu"])
@pytest.mark.parametrize(
    "row", FORCE, ids=lambda row: "object" if type(row[0]) is object else repr(row[0])
)
def test_explicit_leaves_the_cpu_and_absent_devices_alone(row, machine):
    request, *columns = row
    left = isinstance(request, (str, torch.device, type(None))) and request in EXPLICIT_LEAVES
    expected = dict(zip(["mps", "cuda", "cpu"], columns, strict=True))[machine]
    decision = decide(request, MACHINES[machine], Settings(policy="explicit"), False)
    assert given_device(decision) == (None if left else expected)


@pytest.mark.parametrize("policy", ["force", "explicit"])
@pytest.mark.parametrize(
    ("request_", "expected"), [(None, None), ("cpu", None), ("cuda", "mps:0"), ("cpu:-1", "cpu")]
)
def test_the_override_keeps_the_cpu_and_absent_devices_on_the_cpu(policy, request_, expected):
    decision = decide(request_, MACHINES["mps"], Settings(policy=policy), override_active=True)
    assert given_device(decision) == expected


def test_the_override_can_hold_everything():
    settings = Settings(override="everything")
    assert given_device(decide("cuda", MACHINES["mps"], settings, True)) == "cpu"
    assert given_device(decide("mps", MACHINES["mps"], settings, True)) == "cpu"
    assert given_device(decide("cuda", MACHINES["mps"], settings, False)) == "mps:0"


def test_only_the_toggle_toggles():
    for request, *_ in FORCE:
        decision = decide(request, MACHINES["mps"], Settings(), False)
        assert decision.toggles_override == (request == "cpu:-1")


@pytest.mark.parametrize(("request_", "yields"), [(None, True), ("cpu", True), ("cuda", False)])
def test_only_requests_for_the_cpu_or_no_device_yield_to_torch(request_, yields):
    assert decide(request_, MACHINES["mps"], Settings(), False).yields_to_torch is yields


def test_an_accelerator_that_is_there_beside_the_target_is_left_alone():
    both = Machine(accelerators=(("cuda", 1), ("xpu", 1)))
    assert given_device(decide("xpu", both, Settings(), False)) is None


@pytest.mark.parametrize(
    ("kind", "count", "request_", "expected"),
    [
        ("mps", 1, "mps:2", "mps:0"),
        ("mps", 1, "mps:1", None),  # not this rank's
        ("mps", 1, "mps", None),
        ("xpu", 4, "xpu:2", None),
        ("cuda", 1, "cuda:2", None),  # NCCL refuses to share
    ],
)
def test_a_rank_that_asks_for_a_device_of_its_own_gets_the_one_of_all(
    kind, count, request_, expected
):
    machine = Machine(accelerators=((kind, count),), local_rank=2)
    assert given_device(decide(request_, machine, Settings(), False)) == expected


def test_a_chosen_target_takes_requests_for_an_accelerator_that_is_there():
    settings = Settings(target="cpu")
    assert given_device(decide("cuda", MACHINES["cuda"], settings, False)) == "cpu"


@pytest.mark.parametrize(
    ("machine", "chosen", "expected"),
    [
        ("mps", None, "mps:0"),
        ("cuda", None, "cuda:0"),
        ("two cuda", None, "cuda"),
        ("two cuda", "cuda:1", "cuda:1"),
        ("xpu", None, "xpu:0"),
        ("cpu", None, "cpu"),
        ("mps", "cpu", "cpu"),
        ("mps", "cpu:0", "cpu"),
    ],
)
def test_the_target_is_the_chosen_one_or_the_machines_first(machine, chosen, expected):
    target, reason = choose_target(MACHINES[machine], Settings(target=chosen))
    assert str(target) == expected
    assert reason


@pytest.mark.parametrize(
    ("machine", "chosen"), [("cpu", "mps"), ("cuda", "mps"), ("cuda", "cuda:1")]
)
def test_a_target_that_is_absent_is_an_error_that_names_it(machine, chosen):
    with pytest.raises(TargetError, match=f"'{chosen}' is not on this machine"):
        choose_target(MACHINES[machine], Settings(target=chosen))


specs = st.builds(
    DeviceSpec,
    st.sampled_from(["cpu", "cuda", "mps", "xpu", "npu", "meta", "nonsense", ""]),
    st.one_of(st.none(), st.integers(-1, 127)),
)


@given(
    specs,
    st.sampled_from(list(MACHINES.values())),
    st.builds(
        lambda **chosen: Settings(**chosen),
        policy=st.sampled_from(["force", "explicit"]),
        override=st.sampled_from(["cpu", "everything"]),
    ),
    st.booleans(),
)
def test_nobody_is_sent_to_a_device_that_the_machine_lacks(spec, machine, settings, override):
    decision = decide(spec, machine, settings, override)
    if decision.device is not None:
        assert machine.has(decision.device)

"""The policy: which device a request gets, and why. Pure: no torch, no state, no I/O.

This file is the whole of it. Everything else in the package finds requests and carries
decisions out.
"""

from __future__ import annotations

from typing import NamedTuple

from ._machine import Machine
from ._settings import Settings
from ._spec import ABSENT, NOT_A_DEVICE, TOGGLE, DeviceSpec, parse
from .errors import TargetError

__all__ = ["Decision", "decide", "choose_target"]


class Decision(NamedTuple):
    """What a request gets.

    Attributes:
        device: The device to use; None to hand the request to torch exactly as it came.
        reason: Why, as a short plain phrase, also where nothing changes.
        redirected: Whether the program gets another device than torch would have given.
        toggles_override: Whether the request turns the CPU override on or off.
        yields_to_torch: Whether the redirection applies to users' requests only: torch's own
            code that asks for the CPU, or for no device, means it.
    """

    device: DeviceSpec | None
    reason: str
    redirected: bool = False
    toggles_override: bool = False
    yields_to_torch: bool = False


def choose_target(machine: Machine, settings: Settings) -> tuple[DeviceSpec, str]:
    """The device that requests are redirected to, and why this one.

    Args:
        machine: What the machine has.
        settings: What the user chose; `target` decides where it is set.

    Returns:
        The target with its index where the machine has one such device, and the reason.

    Raises:
        TargetError: If the target asked for is not on this machine.
    """
    if settings.target is None:
        if not machine.accelerators:
            return DeviceSpec("cpu"), "the machine has no accelerator"
        kind = machine.preferred
        return _only_device(kind, machine), f"{kind} is the machine's accelerator"
    spec = parse(settings.target)
    if not machine.has(spec):
        present = ", ".join([*(kind for kind, _ in machine.accelerators), "cpu"])
        raise TargetError(
            f"target={settings.target!r} is not on this machine, which has {present}: "
            f"choose one of these, or leave target out."
        )
    if spec.index is None or spec.type == "cpu":
        spec = _only_device(spec.type, machine)
    return spec, "the user chose it"


def _only_device(kind: str, machine: Machine) -> DeviceSpec:
    """With one device its index is known; with several, torch's current device decides."""
    if kind == "cpu":
        return DeviceSpec("cpu")
    return DeviceSpec(kind, 0 if machine.count(kind) == 1 else None)


def decide(
    request: object | DeviceSpec, machine: Machine, settings: Settings, override_active: bool
) -> Decision:
    """Decide which device a request gets.

    Args:
        request: The request in any form that torch accepts, or parsed.
        machine: What the machine has.
        settings: What the user chose.
        override_active: Whether the CPU override is on.

    Returns:
        The decision, with its reason.

    Raises:
        TargetError: If `settings.target` is not on this machine.
    """
    spec = request if isinstance(request, DeviceSpec) else parse(request)
    target, _ = choose_target(machine, settings)
    if spec is NOT_A_DEVICE:
        return Decision(None, "not a device that torch knows; torch's own error applies")
    if spec == TOGGLE:
        return Decision(DeviceSpec("cpu"), "cpu:-1 asks for the CPU itself", toggles_override=True)
    if spec.is_accelerator:
        return _decide_accelerator(spec, target, machine, settings, override_active)
    if spec == ABSENT or spec.type == "cpu":
        return _decide_host(spec, target, settings, override_active)
    if spec.type == "meta":
        return Decision(None, "meta tensors hold no data and stay meta")
    return Decision(None, f"{spec.type} is not an accelerator that torchdevice knows")


def _decide_accelerator(
    spec: DeviceSpec,
    target: DeviceSpec,
    machine: Machine,
    settings: Settings,
    override_active: bool,
) -> Decision:
    if override_active and settings.override == "everything":
        return Decision(DeviceSpec("cpu"), "the CPU override holds everything", redirected=True)
    if spec.type == target.type:
        if _is_of_another_rank(spec, machine):
            return Decision(target, "the ranks of a machine share its device", redirected=True)
        return Decision(None, f"{spec.type} is the target")
    if machine.count(spec.type) == 0:
        return Decision(target, f"the machine has no {spec.type}", redirected=True)
    if settings.target is not None:
        return Decision(target, f"the user chose {target} as target", redirected=True)
    # CUDA and MPS stand for each other; a further accelerator that is there was asked for.
    if settings.policy == "force" and spec.type in ("cuda", "mps"):
        return Decision(target, f"{target.type} is the machine's target", redirected=True)
    return Decision(None, f"the machine has {spec.type}")


def _is_of_another_rank(spec: DeviceSpec, machine: Machine) -> bool:
    """Whether a rank asks for a device of its own where there is one for all.

    NCCL refuses ranks that share a GPU, so on CUDA torch's own error says more.
    """
    return (
        spec.type != "cuda"
        and spec.index == machine.local_rank
        and machine.count(spec.type) == 1
        and not machine.has(spec)
    )


def _decide_host(
    spec: DeviceSpec, target: DeviceSpec, settings: Settings, override_active: bool
) -> Decision:
    asked = "no device was named" if spec == ABSENT else "the CPU was named"
    if override_active:
        return Decision(None, f"{asked} and the CPU override is on")
    if settings.policy == "explicit":
        return Decision(None, f"{asked} and the policy redirects only absent accelerators")
    if target.type == "cpu":
        return Decision(None, f"{asked} and the CPU is the target")
    return Decision(
        target,
        f"{asked} and the policy is to use the accelerator",
        redirected=True,
        yields_to_torch=True,
    )

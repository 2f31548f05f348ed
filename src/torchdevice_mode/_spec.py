"""Device requests: every form in which a program names a device, parsed without torch.

torch accepts a string (`"cuda"`, `"cuda:1"`), a `torch.device`, an integer (an index of the
accelerator) or nothing. This module turns each into a `DeviceSpec`. What torch itself would
refuse becomes `NOT_A_DEVICE`: the caller hands it to torch, whose error is the right one.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ABSENT", "ACCELERATORS", "NOT_A_DEVICE", "TOGGLE", "DeviceSpec", "parse"]

# Device types that do arithmetic beside the CPU: torch's own list (c10/core/DeviceType.h) and
# the names under which vendors register the `privateuseone` backend. torch knows the latter
# only once the vendor's package is imported, which on another machine it never is.
_TORCH_ACCELERATORS = frozenset(
    {"cuda", "mps", "xpu", "hpu", "mtia", "maia", "ipu", "xla", "hip", "ve", "fpga", "vulkan"}
)
_VENDOR_ACCELERATORS = frozenset({"privateuseone", "npu", "mlu", "musa", "gcu", "sdaa"})
ACCELERATORS = _TORCH_ACCELERATORS | _VENDOR_ACCELERATORS

# torch reads a name of these, then an index without leading zeros.
_IN_NAMES = frozenset("abcdefghijklmnopqrstuvwxyz_")
_DIGITS = frozenset("0123456789")
# torch keeps the index in a signed byte; beyond that it refuses or wraps, so leave it to torch.
_LARGEST_INDEX = 127


class DeviceSpec(NamedTuple):
    """A device by type and index, as `torch.device` has them.

    Attributes:
        type: Device type such as `"cuda"`; the empty string where no device is meant.
        index: Device index, or None where the request names none.
    """

    type: str
    index: int | None = None  # type: ignore[assignment]  # the method of tuples is not missed

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    @property
    def is_accelerator(self) -> bool:
        """True for device types that compute beside the CPU (not `cpu`, not `meta`)."""
        return self.type in ACCELERATORS


ABSENT = DeviceSpec("", None)
"""No device was named."""

TOGGLE = DeviceSpec("cpu", -1)
"""`"cpu:-1"`, which torch does not accept and torchdevice defines: the CPU, and the override."""

NOT_A_DEVICE = DeviceSpec("", -2)
"""Not a device in any form that torch accepts; torch's own error will say so."""


def parse(request: object, index: object = None) -> DeviceSpec:
    """Read a device request in any form that torch accepts.

    Args:
        request: A string, an integer, a `torch.device` (anything with `type` and `index`), or
            None.
        index: The second argument of `torch.device("cuda", 1)`, or None.

    Returns:
        The spec; `ABSENT` for None, `TOGGLE` for `"cpu:-1"`, `NOT_A_DEVICE` for what torch
        would refuse. Never raises.
    """
    if request is None:
        return ABSENT if index is None else NOT_A_DEVICE
    if isinstance(request, str):
        return _parse_string(request, index)
    if isinstance(request, int):
        # torch takes an integer for an index of the current accelerator and refuses booleans.
        if index is not None or isinstance(request, bool) or not _is_index(request):
            return NOT_A_DEVICE
        return DeviceSpec("cuda", request)
    device_type = getattr(request, "type", None)
    device_index = getattr(request, "index", None)
    if index is not None or not isinstance(device_type, str):
        return NOT_A_DEVICE
    if device_index is not None and not _is_index(device_index):
        return NOT_A_DEVICE
    return DeviceSpec(device_type, device_index)


def _parse_string(text: str, index: object) -> DeviceSpec:
    if index is None:
        if text == "cpu:-1":
            return TOGGLE
        name, colon, digits = text.partition(":")
        if not _is_name(name):
            return NOT_A_DEVICE
        if not colon:
            return DeviceSpec(name)
        if not _is_short_number(digits) or not _is_index(int(digits)):
            return NOT_A_DEVICE
        return DeviceSpec(name, int(digits))
    if text == "cpu" and index == -1:
        return TOGGLE
    # torch: "type (string) must not include an index because index was passed explicitly".
    if not _is_name(text) or not _is_index(index):
        return NOT_A_DEVICE
    assert isinstance(index, int)
    return DeviceSpec(text, index)


def _is_name(text: str) -> bool:
    return bool(text) and _IN_NAMES.issuperset(text)


def _is_short_number(text: str) -> bool:
    if not 0 < len(text) <= 3 or not _DIGITS.issuperset(text):
        return False
    return text == "0" or text[0] != "0"


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_INDEX

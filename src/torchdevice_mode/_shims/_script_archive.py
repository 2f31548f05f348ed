"""The archive of a TorchScript program, with other names of devices in it.

An archive is a zip file: code as text, and objects as pickles of the few opcodes that C++ writes.
In these a tensor's place is a string in the identifier of its storage, and a device is a call of
`torch.device` with a string. Both are found by the opcodes around them, so that a program's own
strings stay as they are.
"""

from __future__ import annotations

import io
import pickletools
import re
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

__all__ = ["for_any_machine", "has_record"]

_PICKLES = ("data.pkl", "constants.pkl")
_NAMES_ACCELERATOR = re.compile(rb'torch\.device\("(?!cpu|meta)|torch\.cuda\(')


class _Step(NamedTuple):
    """One opcode of a pickle, as it stands in the file."""

    name: str
    value: Any
    raw: bytes


def has_record(file: Any, name: str) -> bool:
    """Whether an archive has a record; no for what is no archive."""
    position = file.tell() if hasattr(file, "tell") else None
    try:
        source = file if position is not None else str(file)
        return bool(torch._C.PyTorchFileReader(source).has_record(name))  # type: ignore[attr-defined]
    except (RuntimeError, TypeError, ValueError, OSError):
        return False
    finally:
        if position is not None:
            file.seek(position)


def for_any_machine(data: bytes, target: str, note: str) -> bytes:
    """A program that names the target nowhere.

    Args:
        data: The archive.
        target: The device that its tensors may be on.
        note: Name of the extra file that says that they were on the target, if the archive no
            longer does.

    Returns:
        The archive, the same object where it names no such device.
    """
    reader = torch._C.PyTorchFileReader(io.BytesIO(data))
    records = {name: reader.get_record(name) for name in reader.get_all_records()}
    pickles = {name: list(_steps(records[name])) for name in _PICKLES if name in records}
    device = f'torch.device("{target}")'.encode()
    code = {name: text for name, text in records.items() if name.endswith(".py")}
    held = any(_mentions(steps, target) for steps in pickles.values())
    if not held and not any(device in text for text in code.values()):
        return data
    stands_for = target if target.startswith("cuda") else "cuda:0"
    names_one = any(_NAMES_ACCELERATOR.search(text) for text in code.values())
    names_one = names_one or any(_holds_device(steps) for steps in pickles.values())
    place = stands_for if names_one else "cpu"
    for name, steps in pickles.items():
        records[name] = _renamed(steps, target, place, stands_for)
    for name, text in code.items():
        records[name] = text.replace(device, f'torch.device("{stands_for}")'.encode())
    if place == "cpu":
        records[f"extra/{note}"] = stands_for.encode()
    return _written(records)


def _written(records: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    for name, record in records.items():
        writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return buffer.getvalue()


# --- pickles ------------------------------------------------------------------------------------


def _steps(pickled: bytes) -> Iterator[_Step]:
    found = list(pickletools.genops(pickled))
    ends = [position for _, _, position in found[1:]] + [len(pickled)]
    for (opcode, value, position), end in zip(found, ends, strict=True):
        yield _Step(opcode.name, value, pickled[position:end])


def _mentions(steps: list[_Step], text: str) -> bool:
    return any(step.name == "BINUNICODE" and step.value == text for step in steps)


def _holds_device(steps: list[_Step]) -> bool:
    """Whether an object of the program is a device of an accelerator."""
    return any(
        _is_device(steps, at) and not str(value).startswith(("cpu", "meta"))
        for at, value in _strings(steps)
    )


def _strings(steps: list[_Step]) -> Iterator[tuple[int, str]]:
    """Where a string is used, and which: written out, or taken from the memo."""
    memo: dict[int, str] = {}
    for at, step in enumerate(steps):
        if step.name == "BINUNICODE":
            if at + 1 < len(steps) and steps[at + 1].name in ("BINPUT", "LONG_BINPUT"):
                memo[steps[at + 1].value] = step.value
            yield at, step.value
        elif step.name in ("BINGET", "LONG_BINGET") and step.value in memo:
            yield at, memo[step.value]


def _is_put(step: _Step) -> bool:
    return step.name in ("BINPUT", "LONG_BINPUT")


def _is_place(steps: list[_Step], at: int) -> bool:
    """Whether a string ends the identifier of a storage: then come its size and `BINPERSID`."""
    after = [step.name for step in steps[at + 1 : at + 6] if not _is_put(step)]
    return after[1:3] == ["TUPLE", "BINPERSID"]


def _is_device(steps: list[_Step], at: int) -> bool:
    """Whether a string is the argument of `torch.device`."""
    before = [step for step in steps[max(at - 2, 0) : at] if not _is_put(step)]
    if not before:
        return False
    last = before[-1]
    if last.name == "GLOBAL":
        return bool(last.value == "torch device")
    if last.name == "MARK" and len(before) > 1:
        return bool(before[-2].value == "torch device")
    return last.name in ("BINGET", "LONG_BINGET") and _remembers_device(steps, last.value)


def _remembers_device(steps: list[_Step], key: int) -> bool:
    return any(
        step.name == "GLOBAL"
        and step.value == "torch device"
        and _is_put(steps[at + 1])
        and steps[at + 1].value == key
        for at, step in enumerate(steps[:-1])
    )


def _renamed(steps: list[_Step], target: str, place: str, device: str) -> bytes:
    """The pickle with other places and devices; each use of the string is written out anew."""
    used = {at for at, value in _strings(steps) if value == target}
    written = []
    for at, step in enumerate(steps):
        if at not in used:
            written.append(step.raw)
        elif _is_place(steps, at):
            written.append(_string(place))
        elif _is_device(steps, at):
            written.append(_string(device))
        else:
            written.append(_string(target))
    return b"".join(written)


def _string(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data

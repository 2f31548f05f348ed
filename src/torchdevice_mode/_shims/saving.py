"""Saving: what lies on the target is written as the CPU's, which every machine can load.

torch knows one location that it loads on a machine with CUDA, with MPS and with neither: the
CPU. So storages of the target are tagged with it. Where they were is noted beside the data, in a
place that plain torch does not read: a record of the file, or what follows a pickled storage. A
program that runs under redirection finds them on the target again, as it would on CUDA.
"""

from __future__ import annotations

import functools
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch._utils
import torch.serialization
import torch.storage

from .._active import current
from .._patches import Patch
from .._spec import parse

__all__ = ["PATCHES", "original_place", "place_of_device", "tag"]

_RECORD = "torchdevice"
_TRAILER = b"\0torchdevice:"
_CPU = "cpu"
_ANY = ""
"""Stands for the key of the one storage that is pickled by itself."""


class _Local(threading.local):
    """What is being written and read in this thread.

    Attributes:
        written: Where storages are, by their key in the file that is being written.
        read: The same for a file that is about to be read.
    """

    def __init__(self) -> None:
        self.written: dict[str, str] | None = None
        self.read: dict[str, str] = {}


_local = _Local()


def tag(storage: Any) -> str | None:
    """The location to write for a storage; None to let torch decide."""
    place = _place(storage)
    if place is None:
        return None
    if _local.written is not None:
        # `location_tag` is called where torch has just given the storage its key.
        key = sys._getframe(2).f_locals.get("storage_key")
        if key is not None:
            _local.written[key] = place
    return _CPU


def _place(storage: Any) -> str | None:
    device = getattr(storage, "_untyped_storage", storage).device
    return None if device.type == _CPU else place_of_device(device.type, device.index)


def place_of_device(kind: str, index: int | None) -> str | None:
    """Where a program thinks that something is which is on the target; None for other devices.

    Args:
        kind: The type of the device where it is.
        index: Its index, if it has one.

    Returns:
        The name of a device of CUDA, for which the target stands.
    """
    context = current()
    if context is None or kind == _CPU or kind != context.target.type:
        return None
    return f"{kind}:{index or 0}" if kind == "cuda" else "cuda:0"


# --- files --------------------------------------------------------------------------------------


def _noting(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _save(obj: Any, zip_file: Any, *args: Any, **kwargs: Any) -> None:
        if current() is None:
            return original(obj, zip_file, *args, **kwargs)
        with _writing({}) as places:
            original(obj, zip_file, *args, **kwargs)
        if places:
            record = json.dumps(places)
            zip_file.write_record(_RECORD, record, len(record))
        return None

    return _save


@contextmanager
def _writing(places: dict[str, str] | None) -> Iterator[Any]:
    before, _local.written = _local.written, places
    try:
        yield places
    finally:
        _local.written = before


def _knowing(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _load(zip_file: Any, *args: Any, **kwargs: Any) -> Any:
        if current() is None or not zip_file.has_record(_RECORD):
            return original(zip_file, *args, **kwargs)
        with _reading(_places_in(zip_file)):
            return original(zip_file, *args, **kwargs)

    return _load


def _places_in(zip_file: Any) -> dict[str, str]:
    """What a record says; nothing where it is not one of ours."""
    try:
        places = json.loads(zip_file.get_record(_RECORD))
    except ValueError:
        return {}
    return places if isinstance(places, dict) else {}


@contextmanager
def _reading(places: dict[str, str]) -> Iterator[None]:
    before, _local.read = _local.read, places
    try:
        yield
    finally:
        _local.read = before


def original_place() -> Callable[[str], str]:
    """For the file that is about to be read: what tells where a storage was when it was saved.

    Returns:
        A function of the location that the file gives, to be called by what torch calls to
        restore a storage.
    """
    # Taken, so that what is loaded by objects of the file while they are unpickled is apart.
    places, _local.read = _local.read, {}

    def place(location: str) -> str:
        if location != _CPU or not places:
            return location
        key = sys._getframe(2).f_locals.get("key", _ANY)
        noted = places.get(key)
        return noted if isinstance(noted, str) and parse(noted).is_accelerator else location

    return place


# --- pickles ------------------------------------------------------------------------------------


def _with_trailer(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def __reduce__(self: Any) -> Any:  # noqa: N807 - it replaces one
        place = _place(self)
        if place is None:
            return original(self)
        with _writing(None):
            function, (data,) = original(self)
        return function, (data + _TRAILER + place.encode(),)

    return __reduce__


def _by_trailer(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _load_from_bytes(b: bytes) -> Any:
        data, trailer, place = b.rpartition(_TRAILER)
        if current() is None or not trailer or len(place) > 16:
            return original(b)
        with _reading({_ANY: place.decode("ascii", "replace")}):
            return original(data)

    return _load_from_bytes


# --- subclasses that wrap other tensors -----------------------------------------------------------

# Such a tensor has no storage; its device is pickled, as a `torch.device`. Written as a string it
# is told apart from a device that its program chose.


def _wrapper_on_cpu(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _reduce_ex_internal(self: Any, proto: Any) -> Any:
        reduced = original(self, proto)
        context = current()
        if context is None or reduced[0] is not torch._utils._rebuild_wrapper_subclass:
            return reduced
        function, arguments, *rest = reduced
        target = context.target.type
        replaced = tuple(
            _CPU if isinstance(a, torch.device) and a.type == target != _CPU else a
            for a in arguments
        )
        return function, replaced, *rest

    return _reduce_ex_internal


def _wrapper_on_target(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _get_restore_location(device: Any) -> Any:
        context = current()
        if context is None:
            return original(device)
        place = original("cuda:0" if isinstance(device, str) and device == _CPU else device)
        return context.device_for(place, sys._getframe(1)) or place

    return _get_restore_location


_WRITES = "torch tags storages with their device, and plain torch elsewhere may not have it"

PATCHES: tuple[Patch, ...] = (
    Patch(lambda: torch.serialization, "_save", _noting, _WRITES),
    Patch(lambda: torch.serialization, "_load", _knowing, "the hook is given no file to look in"),
    Patch(lambda: torch.storage._StorageBase, "__reduce__", _with_trailer, _WRITES),
    Patch(lambda: torch.storage.TypedStorage, "__reduce__", _with_trailer, _WRITES),
    Patch(
        lambda: torch.storage,
        "_load_from_bytes",
        _by_trailer,
        "the hook is given no bytes to look in",
    ),
    Patch(lambda: torch.Tensor, "_reduce_ex_internal", _wrapper_on_cpu, _WRITES),
    Patch(
        lambda: torch._utils,
        "_get_restore_location",
        _wrapper_on_target,
        "a tensor without storage has a device that the hook is not asked about",
    ),
)

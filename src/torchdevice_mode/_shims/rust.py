"""safetensors: its loader is written in Rust, and calls torch from there.

It makes a tensor on the CPU, writes into its memory through a pointer, and moves it; before it
saves one it moves it to the CPU and reads its memory. So where it names the CPU it must get the
CPU: on MPS a pointer is none to memory that a program may touch. A mode sees its calls, but takes
them for calls of whoever called Rust. Here that is this module, which `_caller.py` knows.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from .._active import current
from .._patches import Patch, imported
from .._spec import TOGGLE, parse

__all__ = ["PATCHES"]

_MODULE = "safetensors"
_TORCH_MODULE = "safetensors.torch"


def _called_from_here(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def read(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method(self, *args, **kwargs)

    return read


def _slices_called_from_here(get_slice: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(get_slice)
    def read(self: Any, *args: Any, **kwargs: Any) -> Any:
        part = get_slice(self, *args, **kwargs)
        return part if current() is None else _Slice(part)

    return read


class _Slice:
    """A tensor of a file, of which a part is read when it is indexed."""

    def __init__(self, part: Any) -> None:
        self._part = part

    def __getitem__(self, index: Any) -> Any:
        return self._part[index]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)


def _file_class() -> Any:
    """The class of open files, if its methods can be replaced."""
    found = getattr(sys.modules.get(_MODULE), "safe_open", None)
    immutable = 1 << 8
    return found if isinstance(found, type) and not found.__flags__ & immutable else None


def _with_cpu_itself(original: Callable[..., Any]) -> Callable[..., Any]:
    """`load_file` with `"cpu:-1"`, which Rust cannot read."""

    @functools.wraps(original)
    def load_file(filename: Any, device: Any = "cpu", *args: Any, **kwargs: Any) -> Any:
        context = current()
        if context is not None and isinstance(device, str) and parse(device) == TOGGLE:
            context.resolve(device)
            device = "cpu"
        return original(filename, device, *args, **kwargs)

    return load_file


_READERS = {
    "get_tensor": _called_from_here,
    "get_tensors": _called_from_here,
    "get_slice": _slices_called_from_here,
}
_REASON = "Rust calls torch for the program, and then reads and writes memory of the CPU"

PATCHES: dict[str, tuple[Patch, ...]] = {
    _MODULE: tuple(Patch(_file_class, name, wrap, _REASON) for name, wrap in _READERS.items()),
    _TORCH_MODULE: (
        Patch(
            imported(_TORCH_MODULE),
            "load_file",
            _with_cpu_itself,
            "Rust refuses the name before it calls torch",
        ),
    ),
}

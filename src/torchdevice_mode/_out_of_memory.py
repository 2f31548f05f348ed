"""Memory that ran out, reported as the exception that CUDA programs catch.

Each device says it in its own words, and with a plain `RuntimeError`. Programs that shrink their
batch look for `torch.OutOfMemoryError`, or for "CUDA out of memory." in its text.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from ._active import current
from ._context import Context

__all__ = ["count", "forget_count", "is_out_of_memory", "out_of_memory", "reports_out_of_memory"]

_F = TypeVar("_F", bound=Callable[..., Any])

# Metal refuses a single buffer beyond what the device has with a text of its own.
_TEXT = r"(?i)out of memory|Invalid buffer size"
_TEXT_OF_CPU = r"can't allocate memory|not enough memory|std::bad_alloc"
_REQUESTED = r"(?i)(?:tried to allocate|Invalid buffer size:) ([\d.]+) (bytes|[KMGT]i?B)"
_CUDAS_WORDS = "CUDA out of memory."

_count = 0


def count() -> int:
    """How often memory ran out, as `num_ooms` of CUDA's statistics."""
    return _count


def forget_count() -> None:
    """Count anew."""
    global _count
    _count = 0


def is_out_of_memory(context: Context, error: Exception) -> bool:
    """Whether an error is the target's own way to say that its memory ran out."""
    if not isinstance(error, RuntimeError) or isinstance(error, torch.OutOfMemoryError):
        return False
    # The CPU's own is left alone where an accelerator stands for CUDA: no batch is too large then.
    pattern = _TEXT_OF_CPU if context.target.type == "cpu" else _TEXT
    return re.search(pattern, str(error)) is not None


def out_of_memory(error: Exception) -> torch.OutOfMemoryError:
    """The target's out-of-memory error as the exception that CUDA programs catch.

    Args:
        error: The target's own.

    Returns:
        An exception whose text begins as CUDA's does, with the target's own text behind it.
    """
    global _count
    _count += 1
    text = str(error)
    if _CUDAS_WORDS not in text:
        # accelerate and others look for these words, full stop included.
        found = re.search(_REQUESTED, text)
        requested = f" Tried to allocate {_readable(*found.groups())}." if found else ""
        text = f"{_CUDAS_WORDS}{requested} {text}"
    return torch.OutOfMemoryError(text)


def _readable(amount: str, unit: str) -> str:
    """A size as CUDA's allocator writes it: `512 bytes`, `2.00 GiB`."""
    if unit != "bytes":
        return f"{amount} {unit}"
    size = float(amount)
    for name, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size > 1 << shift:
            return f"{size / (1 << shift):.2f} {name}"
    return f"{amount} bytes"


def reports_out_of_memory(work: _F) -> _F:
    """Decorate what allocates memory past the function mode."""

    @functools.wraps(work)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return work(*args, **kwargs)
        except RuntimeError as error:
            context = current()
            if context is not None and is_out_of_memory(context, error):
                raise out_of_memory(error) from error
            raise

    return call  # type: ignore[return-value]

"""`torch.Generator`: a C++ class that takes a device and that no mode sees.

It is replaced by a subclass whose constructor asks the policy and then makes a plain
generator. Its metaclass answers `isinstance` and `issubclass` for the original, so generators
made in C++, or before redirection, are instances of it too.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from .._active import current
from .._caller import asked_by_torch
from .._patches import Patch

__all__ = ["PATCHES"]

_PlainGenerator = torch.Generator


class _AnswersForGenerator(type(_PlainGenerator)):  # type: ignore[misc]
    """Metaclass of the stand-in: what is a plain generator is one of these."""

    def __instancecheck__(cls, instance: object) -> bool:
        if cls is Generator:
            return isinstance(instance, _PlainGenerator)
        return type.__instancecheck__(cls, instance)

    def __subclasscheck__(cls, subclass: type) -> bool:
        if cls is Generator:
            return issubclass(subclass, _PlainGenerator)
        return type.__subclasscheck__(cls, subclass)


class Generator(_PlainGenerator, metaclass=_AnswersForGenerator):
    """`torch.Generator` whose device goes through the policy; makes plain generators."""

    def __new__(cls, device: Any = None) -> Any:
        device = _generator_device(device)
        named = {} if device is None else {"device": device}
        if cls is Generator:
            return _PlainGenerator(**named)
        return _PlainGenerator.__new__(cls, **named)  # a user's subclass


# Under redirection this *is* `torch.Generator`, which is the name it must pickle by.
Generator.__module__ = "torch"
Generator.__qualname__ = "Generator"


def _generator_device(request: Any) -> Any:
    context = current()
    if context is None:
        return request
    frame = sys._getframe(2)
    if request is None and asked_by_torch(frame, absent=True):
        return None
    device = context.device_for(request, frame)
    return request if device is None else device


PATCHES: tuple[Patch, ...] = (
    Patch(
        lambda: torch,
        "Generator",
        lambda original: Generator,
        "a C++ class: its constructor parses the device before any mode could see it",
    ),
)

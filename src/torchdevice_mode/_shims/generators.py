"""`torch.Generator` for CUDA: a generator of the target, that takes CUDA's states and offsets.

`torch.Generator` is replaced by a subclass whose constructor asks the policy. Its metaclass
answers `isinstance` and `issubclass` for the original, so generators made in C++, or before
redirection, are instances of it too.

A state is bytes whose form only its own kind of generator knows. One that was saved on another
kind cannot be continued, but its seed can be found and used: the run goes on and can be repeated.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import torch

from .._active import current
from .._caller import asked_by_torch
from .._log import warn_once
from .._patches import Patch
from ._capture import recording

__all__ = ["PATCHES", "Generator", "set_state"]

_PlainGenerator = torch.Generator

# Where the seed stands in a state, by the state's size: in Metal's after its counters, in the
# CPU's and CUDA's in front.
_SEED_AT = {36: 28, 44: 28}
_MASK = 2**64 - 1
_ODD = 0x9E3779B97F4A7C15


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
    """`torch.Generator` whose device goes through the policy."""

    # The device that it is for, where that is not the one that it draws on: with `rng="cpu"`.
    _stands_on: torch.device | None = None
    # The offset set last, where the generator has none.
    _offset = 0

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        plain = _PlainGenerator if cls is Generator else cls
        if len(args) + len(kwargs) > 1 or kwargs.keys() - {"device"}:
            return _PlainGenerator(*args, **kwargs)  # torch's own error
        request = args[0] if args else kwargs.get("device")
        context = current()
        if context is None:
            return _made(plain, request)
        frame = sys._getframe(1)
        if request is None and asked_by_torch(frame, absent=True):
            return _made(plain, None)
        device = context.device_for(request, frame)
        made = _made(cls, request if device is None else device)
        stands_on = made.device
        if stands_on.type == "cpu":
            return made
        if context.settings.rng == "cpu":
            made = _made(cls, None)
            made._stands_on = stands_on
        elif stands_on.type == "cuda":
            return _made(plain, stands_on)  # CUDA's own, which lacks nothing
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The device whose tensors it fills."""
        device: torch.device = _PlainGenerator.device.__get__(self)
        return device if self._stands_on is None else self._stands_on

    def set_state(self, new_state: torch.Tensor) -> Generator:
        """Set the state, whatever device it is on and whatever device it was taken from."""
        set_state(self, new_state)
        self._offset = 0
        return self

    def manual_seed(self, seed: int) -> Generator:
        """Set the seed."""
        super().manual_seed(seed)
        self._offset = 0
        return self

    def seed(self) -> int:
        """Choose a random seed, and give it."""
        self._offset = 0
        return super().seed()

    def get_offset(self) -> int:
        """CUDA's offset; what was set last on a generator that has none."""
        try:
            return int(super().get_offset())
        except RuntimeError:
            return self._offset

    def set_offset(self, offset: int) -> Generator:
        """Set CUDA's offset; on a generator that has none, begin another sequence for each."""
        try:
            super().set_offset(offset)
        except RuntimeError as error:
            if "does not use offset" not in str(error):
                raise
            _set_emulated_offset(self, offset)
        return self

    def clone_state(self) -> Generator:
        """A generator of its own that goes on as this one does."""
        copied = super().clone_state()
        made = _made(type(self), copied.device)
        made.set_state(copied.get_state())
        vars(made).update(vars(self))
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Generator:
        return self.clone_state()

    def __copy__(self) -> Generator:
        return self.clone_state()

    def __reduce__(self) -> tuple[Any, ...]:
        return Generator, (self.device,), super().__reduce__()[2]

    def __setstate__(self, state: tuple[int, int | None, torch.Tensor]) -> None:
        seed, offset, bytes_ = state
        self.manual_seed(seed)
        if offset is not None:
            self.set_offset(offset)
        self.set_state(bytes_)


# Under redirection this *is* `torch.Generator`, which is the name it must pickle by.
Generator.__module__ = "torch"
Generator.__qualname__ = "Generator"


def _made(cls: Any, device: Any) -> Any:
    new: Any = _PlainGenerator.__new__
    return new(cls) if device is None else new(cls, device)


# --- states and offsets -------------------------------------------------------------------------


def set_state(generator: torch.Generator, state: torch.Tensor) -> None:
    """Set a generator's state, whatever device it is on and whatever device it was taken from.

    Args:
        generator: The generator.
        state: What some generator's `get_state` gave.

    Raises:
        TypeError: If that is no tensor of bytes.
    """
    plain_set_state = _PlainGenerator.set_state
    if not isinstance(state, torch.Tensor):
        plain_set_state(generator, state)  # torch's own error
        return
    capture = recording()
    if capture is not None:
        memory = state
        capture.recorder.add(lambda: set_state(generator, memory))
    # `.cpu()` in the program moved it to the target; generators take states from the CPU only.
    with torch._C.DisableTorchFunction():
        state = state.detach().to("cpu").clone(memory_format=torch.contiguous_format)
        if state.dtype is not torch.uint8:
            raise TypeError("RNG state must be a torch.ByteTensor")
        expected = generator.get_state().numel()
        if state.numel() == expected or state.numel() < 16:
            plain_set_state(generator, state)
            return
        at = _SEED_AT.get(state.numel(), 0)
        seed = int.from_bytes(bytes(state[at : at + 8].tolist()), "little")
    warn_once(
        "rng-state",
        f"The random state of {state.numel()} bytes is not one of {generator.device}, whose have "
        f"{expected}, so its seed is used: expect other random numbers than where it was saved.",
    )
    generator.manual_seed(seed)


def _set_emulated_offset(generator: Generator, offset: int) -> None:
    """Begin the sequence that an offset has, on a generator that cannot enter its own midway.

    It is the seed's own for 0, and another one, the same each time, for any other offset.
    """
    seed = generator.initial_seed()
    generator.manual_seed((seed + offset * _ODD) & _MASK)
    if offset:
        # A state of the CPU begins with the seed that is told when asked for it.
        with torch._C.DisableTorchFunction():
            state = generator.get_state()
            told = list(seed.to_bytes(8, "little"))
            state[:8] = torch.tensor(told, dtype=torch.uint8, device="cpu")
            _PlainGenerator.set_state(generator, state)
    generator._offset = offset


def _keep_from_tracing() -> None:
    """Let Dynamo end its graph at our class, as it does at the plain one, and not refuse it.

    torch 2.13 knows the plain class as an "opaque" type, finds subclasses of it to be opaque too,
    and fails when it traces their methods. A class with an entry of its own is not one.
    """
    opaque = sys.modules.get("torch._library.opaque_object")
    types = getattr(opaque, "_OPAQUE_TYPES", {})
    info = types.get(_PlainGenerator)
    if info is not None:
        types[Generator] = dataclasses.replace(info, class_name="torchdevice.Generator")


_keep_from_tracing()

PATCHES: tuple[Patch, ...] = (
    Patch(
        lambda: torch,
        "Generator",
        lambda original: Generator,
        "a C++ class: its constructor parses the device before any mode could see it",
    ),
)

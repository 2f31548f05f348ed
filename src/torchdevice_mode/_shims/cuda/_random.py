"""Random numbers: CUDA's seeds and states are those of the target's generator."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from ..._log import warn_once
from ._index import checked_index, index_of
from ._surface import Trace, mapped, target

__all__ = ["generator"]

_BREAK = Trace.BREAK


def generator() -> torch.Generator:
    """The target's default generator; on the CPU that is torch's own."""
    device = target()
    if device.type == "mps":
        return torch.mps._get_default_mps_generator()
    if device.type == "cpu":
        return torch.default_generator
    found: torch.Generator = getattr(torch, device.type).default_generators[device.index or 0]
    return found


@mapped("_get_generator", "the target's generator", trace=_BREAK)
def _get_generator(device: torch.device) -> torch.Generator:
    return generator()


@mapped("manual_seed", "seeds the target's generator", trace=_BREAK)
def manual_seed(seed: int) -> None:
    generator().manual_seed(int(seed))


@mapped("manual_seed_all", "seeds the target's generator", trace=_BREAK)
def manual_seed_all(seed: int) -> None:
    generator().manual_seed(int(seed))


@mapped("seed", "seeds the target's generator", trace=_BREAK)
def seed() -> None:
    generator().seed()


@mapped("seed_all", "seeds the target's generator", trace=_BREAK)
def seed_all() -> None:
    generator().seed()


@mapped("initial_seed", "asked of the target's generator", trace=_BREAK)
def initial_seed() -> int:
    return generator().initial_seed()


@mapped("get_rng_state", "the target's generator", trace=_BREAK)
def get_rng_state(device: Any = "cuda") -> torch.Tensor:
    checked_index(device)
    return generator().get_state()


@mapped("get_rng_state_all", "the target's generator", trace=_BREAK)
def get_rng_state_all() -> list[torch.Tensor]:
    return [generator().get_state()]


@mapped("set_rng_state", "the target's generator", trace=_BREAK)
def set_rng_state(new_state: torch.Tensor, device: Any = "cuda") -> None:
    checked_index(device)
    _set_state(new_state)


@mapped(
    "set_rng_state_all",
    "the target's generator; states of further devices are dropped",
    trace=_BREAK,
)
def set_rng_state_all(new_states: Iterable[torch.Tensor]) -> None:
    for index, state in enumerate(new_states):
        if index == 0:
            _set_state(state)


def _set_state(state: torch.Tensor) -> None:
    """Set the state, whatever device it is on and whatever device it was taken from."""
    into = generator()
    # `.cpu()` in the program moved it to the target; generators take states from the CPU only.
    with torch._C.DisableTorchFunction():
        state = state.detach().to("cpu").clone(memory_format=torch.contiguous_format)
        if state.dtype is not torch.uint8:
            raise TypeError("RNG state must be a torch.ByteTensor")
        if state.numel() == into.get_state().numel():
            into.set_state(state)
            return
        # A checkpoint written elsewhere: another kind of generator cannot continue its numbers,
        # but the run can go on and be repeated.
        seed = int.from_bytes(bytes(state[:8].tolist()), "little")
    warn_once(
        "rng-state",
        f"The random state of {state.numel()} bytes is not one of {target()}, so a seed made "
        f"from it is used: expect other random numbers than where it was saved.",
    )
    into.manual_seed(seed)


@mapped("_get_rng_state_offset", "the target's generator, where it has an offset", trace=_BREAK)
def _get_rng_state_offset(device: Any = "cuda") -> int:
    index_of(device)
    return _offset()


def _offset() -> int:
    try:
        return int(generator().get_offset())
    except (RuntimeError, NotImplementedError):
        return 0


@mapped("_set_rng_state_offset", "the target's generator, where it has an offset", trace=_BREAK)
def _set_rng_state_offset(offset: int, device: Any = "cuda") -> None:
    index_of(device)
    if offset != _offset():
        generator().set_offset(offset)

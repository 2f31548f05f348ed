"""Random numbers: CUDA's seeds and states are those of the target's generator."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from ..._active import drawn_on_cpu
from .._capture import forbid_seed, recording
from ..generators import set_state
from ._index import count, index_of
from ._surface import Trace, mapped, target

__all__ = ["generator", "generator_of"]

_BREAK = Trace.BREAK


def generator() -> torch.Generator:
    """The generator that the target's numbers come from; the CPU's is torch's own."""
    return generator_of(target())


def generator_of(device: torch.device) -> torch.Generator:
    """The generator that a target's numbers come from."""
    if device.type == "cpu" or drawn_on_cpu():
        return torch.default_generator
    if device.type == "mps":
        return torch.mps._get_default_mps_generator()
    found: torch.Generator = getattr(torch, device.type).default_generators[device.index or 0]
    return found


@mapped("_get_generator", "the target's generator", trace=_BREAK)
def _get_generator(device: torch.device) -> torch.Generator:
    return generator()


@mapped("manual_seed", "seeds the target's generator", trace=_BREAK)
def manual_seed(seed: int) -> None:
    forbid_seed("set_current_seed")
    generator().manual_seed(int(seed))


@mapped("manual_seed_all", "seeds the target's generator", trace=_BREAK)
def manual_seed_all(seed: int) -> None:
    forbid_seed("set_current_seed")
    generator().manual_seed(int(seed))


@mapped("seed", "seeds the target's generator", trace=_BREAK)
def seed() -> None:
    forbid_seed("seed")
    generator().seed()


@mapped("seed_all", "seeds the target's generator", trace=_BREAK)
def seed_all() -> None:
    forbid_seed("seed")
    generator().seed()


@mapped("initial_seed", "asked of the target's generator", trace=_BREAK)
def initial_seed() -> int:
    forbid_seed("current_seed")
    return generator().initial_seed()


@mapped("get_rng_state", "the target's generator", trace=_BREAK)
def get_rng_state(device: Any = "cuda") -> torch.Tensor:
    return get_rng_state_of(_generator_at(device))


@mapped("get_rng_state_all", "the target's generator", trace=_BREAK)
def get_rng_state_all() -> list[torch.Tensor]:
    return [get_rng_state_of(generator()) for _ in range(count())]


def get_rng_state_of(of: torch.Generator) -> torch.Tensor:
    """A generator's state; in a capture also at each replay."""
    state = of.get_state()
    capture = recording()
    if capture is not None:
        capture.recorder.read_state(of, state)
    return state


@mapped("set_rng_state", "the target's generator", trace=_BREAK)
def set_rng_state(new_state: torch.Tensor, device: Any = "cuda") -> None:
    set_state(_generator_at(device), new_state)


@mapped(
    "set_rng_state_all",
    "the target's generator; states of further devices are dropped",
    trace=_BREAK,
)
def set_rng_state_all(new_states: Iterable[torch.Tensor]) -> None:
    for index, state in enumerate(new_states):
        if index == 0:
            set_state(generator(), state)


def _generator_at(device: Any) -> torch.Generator:
    """The generator of a device, which torch asks for its index only, whatever its type."""
    with torch._C.DisableTorchFunction():
        if isinstance(device, int):
            index = torch.device("cuda", device).index
        else:
            # `cuda:3` means the one device that there is, wherever it is named.
            (torch.device(device) if isinstance(device, str) else device).index  # noqa: B018
            index = 0
    return torch.cuda.default_generators[index]


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

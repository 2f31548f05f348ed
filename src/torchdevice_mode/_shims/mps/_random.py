"""Random numbers: MPS's seeds and states are those of the target's generator."""

from __future__ import annotations

import torch

from ..cuda._random import generator_of
from ..generators import set_state
from ._surface import Trace, mapped, target

__all__: list[str] = []

_BREAK = Trace.BREAK


def _generator() -> torch.Generator:
    return generator_of(target())


@mapped("_get_default_mps_generator", "the target's generator", trace=_BREAK)
def _get_default_mps_generator() -> torch.Generator:
    return _generator()


@mapped("manual_seed", "seeds the target's generator", trace=_BREAK)
def manual_seed(seed: int) -> None:
    _generator().manual_seed(int(seed))


@mapped("seed", "seeds the target's generator", trace=_BREAK)
def seed() -> None:
    _generator().seed()


@mapped("get_rng_state", "the target's generator", trace=_BREAK)
def get_rng_state(device: int | str | torch.device = "mps") -> torch.Tensor:
    return _generator().get_state()


@mapped("set_rng_state", "the target's generator", trace=_BREAK)
def set_rng_state(new_state: torch.Tensor, device: int | str | torch.device = "mps") -> None:
    set_state(_generator(), new_state)

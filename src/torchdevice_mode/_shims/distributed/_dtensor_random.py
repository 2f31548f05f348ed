"""Random numbers in DTensors: each shard its own, each replica the same, on any device.

Torch does it by the counter in a state of CUDA's generators, which no other device has. Here every
rank draws a seed from the target's generator, which is in step on all ranks, and a shard's numbers
follow from that seed and the shard's number.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from ..._patches import Hook, Patch, imported
from ._groups import redirection

__all__ = ["PATCHES"]

_MODULE = "torch.distributed.tensor._random"
_DISPATCH = "torch.distributed.tensor._dispatch"
_SPREAD = 0x9E3779B1  # odd, so that shards of one seed differ


def _generator(device: torch.device) -> torch.Generator:
    from ..cuda._random import generator_of

    return generator_of(device)


def _for_target(original: Any) -> Any:
    class OffsetBasedRNGTracker(original):  # type: ignore[misc]
        """Torch's, and on the target one by seeds."""

        def __init__(self, device_mesh: Any, run_state_sync: bool = True) -> None:
            context = redirection()
            self._seeds = context is not None and device_mesh.device_type == context.target.type
            if context is None or not self._seeds:
                super().__init__(device_mesh, run_state_sync)
                return
            self._device = context.target
            self._use_distribute_region = True
            if run_state_sync:
                state = _generator(self._device).get_state()
                dist.broadcast(state, 0)
                _generator(self._device).set_state(state)

        def _distribute_region(self, spec: Any, generator: Any = None) -> Any:
            if not self._seeds:
                return super()._distribute_region(spec, generator)
            return _seeded(spec, self._device, generator)

    OffsetBasedRNGTracker.__module__ = original.__module__
    OffsetBasedRNGTracker.__qualname__ = original.__qualname__
    return OffsetBasedRNGTracker


@contextlib.contextmanager
def _seeded(spec: Any, device: torch.device, given: torch.Generator | None) -> Iterator[None]:
    """A block in which the target draws the numbers of this rank's shard."""
    generator = _generator(device)
    seed = int(torch.randint(2**31, (), device=device, generator=given).item())
    after = generator.get_state()
    generator.manual_seed((seed + _SPREAD * _shard(spec)) % 2**32)
    try:
        yield
    finally:
        generator.set_state(after)


def _shard(spec: Any) -> int:
    """The number of this rank's shard: replicas have the same."""
    number, coordinate = 0, spec.mesh.get_coordinate() or ()
    for dimension, (placement, position) in enumerate(
        zip(spec.placements, coordinate, strict=False)
    ):
        if placement.is_shard():
            number = number * spec.mesh.size(dimension) + position
    return number


def _on_target(original: Callable[..., bool]) -> Callable[..., bool]:
    @functools.wraps(original)
    def is_rng_supported_mesh(device_mesh: Any) -> bool:
        context = redirection()
        if context is not None and device_mesh.device_type == context.target.type:
            return True
        return original(device_mesh)

    return is_rng_supported_mesh


def _forget_tracker() -> None:
    """Let torch make another tracker: the one that it keeps may be ours."""
    module: Any = sys.modules.get(_MODULE)
    if getattr(getattr(module, "_rng_tracker", None), "_seeds", False):
        module._rng_tracker = None


_OF_CUDA = "reads the counter in a state of CUDA's generators"

PATCHES: dict[str, tuple[Patch | Hook, ...]] = {
    _MODULE: (
        Hook(lambda: _forget_tracker, "torch keeps the tracker that it made"),
        Patch(imported(_MODULE), "OffsetBasedRNGTracker", _for_target, _OF_CUDA),
        Patch(imported(_MODULE), "is_rng_supported_mesh", _on_target, _OF_CUDA),
    ),
    _DISPATCH: (Patch(imported(_DISPATCH), "is_rng_supported_mesh", _on_target, _OF_CUDA),),
}

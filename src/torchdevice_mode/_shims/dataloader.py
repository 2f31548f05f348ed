"""DataLoader: no pinning where there is nothing to pin for, and workers that stay on the CPU.

A forked process must not touch the accelerator: on MPS it hangs, CUDA refuses. So a worker gets
its data set with accelerator tensors copied to the CPU, and its own requests go to the CPU too.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.utils.data._utils.fetch as _fetch
import torch.utils.data._utils.worker as _worker
from torch.utils.data import dataloader as _dataloader

from .. import _override
from .._active import current, held
from .._context import Context
from .._modes import entered
from .._patches import Patch

__all__ = ["PATCHES", "to_host"]

_plain_worker_loop = _worker._worker_loop


class _Unpinned:
    """A loader as its iterator sees it, with `pin_memory` off."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self.pin_memory = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def _prepare(initialise: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(initialise)
    def prepare(self: Any, loader: Any) -> None:
        context = current()
        if context is None:
            initialise(self, loader)
            return
        # Pinned memory is for CUDA; torch would warn of a wish that the program cannot drop.
        unpinned = loader.pin_memory and context.target.type != "cuda"
        initialise(self, _Unpinned(loader) if unpinned else loader)
        if self._num_workers and context.target.type != "cpu":
            # Past our own mode, which would move these copies back.
            with torch._C.DisableTorchFunction():
                self._dataset = to_host(self._dataset)

    return prepare


def _fetch_on_cpu(fetch: Callable[..., Any]) -> Callable[..., Any]:
    """A data set means the CPU where it names no device, in this process as in a worker."""

    @functools.wraps(fetch)
    def fetch_on_cpu(self: Any, possibly_batched_index: Any) -> Any:
        context = current()
        if context is None or context.target.type == "cpu":
            return fetch(self, possibly_batched_index)
        with _override.cpu_override():
            return fetch(self, possibly_batched_index)

    return fetch_on_cpu


def to_host(value: Any, _seen: dict[int, Any] | None = None) -> Any:
    """A data set whose accelerator tensors are on the CPU.

    Args:
        value: Any object; containers and the attributes of objects are followed.

    Returns:
        The object itself where it holds no accelerator tensor, else a shallow copy along the
        way to each. The original is not changed.
    """
    seen = {} if _seen is None else _seen
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, torch.Tensor):
        on_host = value.device.type in ("cpu", "meta")
        return value if on_host else seen.setdefault(id(value), value.detach().to("cpu"))
    seen[id(value)] = value
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        items = [to_host(item, seen) for item in value]
        if any(new is not old for new, old in zip(items, value, strict=True)):
            seen[id(value)] = type(value)(items)
    elif type(value) is dict:
        moved = {key: to_host(item, seen) for key, item in value.items()}
        if any(moved[key] is not value[key] for key in value):
            seen[id(value)] = moved
    elif isinstance(getattr(value, "__dict__", None), dict) and not isinstance(value, type):
        attributes = {name: to_host(item, seen) for name, item in vars(value).items()}
        if any(attributes[name] is not item for name, item in vars(value).items()):
            clone = copy.copy(value)
            vars(clone).update(attributes)
            seen[id(value)] = clone
    return seen[id(value)]


class _WhenIdle:
    """A worker's queue of tasks. While there is none, the worker tells what it counted.

    A worker whose loader is alive when the program ends is killed, and could not tell it then.
    """

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def get(self, *args: Any, **kwargs: Any) -> Any:
        context = current()
        if context is not None and self._queue.empty():
            context.tell_parent()
        return self._queue.get(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)


def _run_worker(kind: Any, dataset: Any, tasks: Any, *rest: Any) -> None:
    _plain_worker_loop(kind, dataset, _WhenIdle(tasks), *rest)


class _WorkerLoop:
    """Stands for torch's worker loop; goes to a spawned worker as its settings."""

    def __call__(self, *args: Any) -> None:
        context = current()
        if context is None:
            _plain_worker_loop(*args)
            return
        on_cpu = context.settings._replace(target="cpu")
        here = Context(context.machine, on_cpu, context.ledger)
        here.variables_for_children = context.variables_for_children
        here.tell_parent = context.tell_parent
        with held(here), entered(here):
            _run_worker(*args)

    def __reduce__(self) -> Any:
        context = current()
        if context is None:
            return _get_plain_worker_loop, ()
        variables = context.settings._replace(target="cpu").to_environment()
        return functools.partial, (_run_spawned_worker, context.open_in_child, variables)


def _get_plain_worker_loop() -> Callable[..., None]:
    return _plain_worker_loop


def _run_spawned_worker(
    open_in_child: Callable[[dict[str, str]], Any], variables: dict[str, str], *args: Any
) -> None:
    entry = open_in_child(variables)
    try:
        _run_worker(*args)
    finally:
        if entry is not None:
            entry.close()


PATCHES: tuple[Patch, ...] = (
    *(
        Patch(
            functools.partial(getattr, _fetch, name),
            "fetch",
            _fetch_on_cpu,
            "a loader without workers builds every sample on the target, one tiny copy each",
        )
        for name in ("_MapDatasetFetcher", "_IterableDatasetFetcher")
    ),
    Patch(
        lambda: _dataloader._BaseDataLoaderIter,
        "__init__",
        _prepare,
        "torch warns that it cannot pin, and hands the data set to workers as it is",
    ),
    Patch(
        lambda: _worker,
        "_worker_loop",
        lambda original: _WorkerLoop(),
        "a worker inherits the mode by fork, and settings by spawn, but must not touch the target",
    ),
)

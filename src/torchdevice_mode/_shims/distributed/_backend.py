"""Which backend serves a group of processes: what a program names, in terms of the target.

A program names `nccl`. On the CPU that is gloo. An accelerator that gloo cannot serve has a backend
of its own where one is installed, or else the one that is registered here: gloo on copies in the
CPU's memory (`_staging.py`). CPU tensors are served by gloo in any case: object collectives need
it, and what a program leaves on the CPU may travel too.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from typing import Any

import torch
import torch.distributed as dist

from ..._context import Context

__all__ = ["NAME", "register", "serving", "unregister"]

NAME = "torchdevice"
"""What the backend that stages through the CPU is registered as."""

_GLOO = "gloo"
# What a program for CUDA names, and what torch puts where nothing is named.
_FOR_CUDA = frozenset({"nccl", "gloo", "undefined"})
# Backends that are installed on their own and register themselves when they are imported.
_PACKAGES = {"mps": "mccl"}


def serving(asked: str, context: Context) -> str:
    """The backend to hand to torch for one that a program names.

    Args:
        asked: As `init_process_group` takes it: `"nccl"`, `"cuda:nccl,cpu:gloo"`.
        context: The redirection that holds.

    Returns:
        The same, where it is not about devices that are redirected: torch raises its own errors
        for what it does not know.
    """
    asked = asked.lower()
    target = context.target.type
    if ":" not in asked:
        if asked not in _FOR_CUDA:
            return asked
        pairs = {"cpu": _GLOO, "cuda": "nccl"}
    else:
        listed = [pair.split(":") for pair in asked.split(",")]
        if any(len(pair) != 2 for pair in listed) or len(dict(listed)) != len(listed):
            return asked
        pairs = dict(listed)
    served: dict[str, str] = {}
    for device, backend in pairs.items():
        if device != "cuda":
            served[device] = backend
        elif target != "cpu":
            served[target] = _of_target(target) if backend in _FOR_CUDA else backend
        elif backend in _FOR_CUDA:
            served.setdefault("cpu", _GLOO)
    if served.get(target) == NAME and served.setdefault("cpu", _GLOO) == _GLOO:
        return NAME  # one group of connections serves both
    if set(served) == {"cpu"}:
        return served["cpu"]
    return ",".join(f"{device}:{backend}" for device, backend in served.items()) or asked


def _of_target(target: str) -> str:
    """The target's own backend where it has one, else ours."""
    own = _own_backend(target)
    if own is None and target in _PACKAGES and importlib.util.find_spec(_PACKAGES[target]):
        with contextlib.suppress(Exception):  # a broken installation serves nothing
            importlib.import_module(_PACKAGES[target])
        own = _own_backend(target)
    return own or NAME


def _own_backend(target: str) -> str | None:
    """A backend that says that it serves the device, and can be used."""
    general = {_GLOO, NAME, "fake", "mpi", "ucc", "undefined"}
    for name, devices in dist.Backend.backend_capability.items():
        if target in devices and str(name) not in general:
            available = str(name).upper() in dist.Backend._plugins
            if available or _is_built_in(str(name)):
                return str(name)
    return None


def _is_built_in(name: str) -> bool:
    ask = getattr(dist, f"is_{name}_available", None)
    return ask is not None and bool(ask())


# --- ours, by torch's own extension point -------------------------------------------------------

_TABLES = ("default_device_backend_map", "backend_capability", "backend_type_map", "_plugins")


def register(target: str) -> None:
    """Register the backend that stages tensors of a target through the CPU.

    Args:
        target: The type of device.
    """
    devices = dist.Backend.backend_capability.get(NAME, ["cpu"])
    if target not in devices:
        dist.Backend.register_backend(NAME, _create, extended_api=True, devices=[*devices, target])


def unregister() -> None:
    """Take the backend back, in every table that torch put it in."""
    backend: Any = dist.Backend
    if NAME in backend.backend_list:
        backend.backend_list.remove(NAME)
    for table in _TABLES:
        entries = getattr(backend, table)
        for key in [k for k, v in entries.items() if NAME in (str(k).lower(), v)]:
            del entries[key]
    if NAME.upper() in vars(backend):
        delattr(backend, NAME.upper())


def _create(options: Any, group_options: Any) -> Any:
    """Gloo, for every device of the group: tensors that it cannot read are staged on the way."""
    backend = dist.ProcessGroupGloo(
        options.store, options.group_rank, options.group_size, timeout=options.timeout
    )
    backend.options.global_ranks_in_group = options.global_ranks_in_group
    backend.options.group_name = options.group_id
    backend._set_sequence_number_for_group()
    return backend


def dispatch_key(target: str) -> str:
    """The dispatcher's name for a type of device."""
    return str(torch._C._dispatch_key_for_device(target))

"""Processes that the program starts: they are redirected alike, and tensors reach them.

A forked process inherits redirection as it inherits everything. One that multiprocessing starts
anew (spawn, forkserver) is told by what it reads first; `subprocess` and what else starts programs
is told by environment variables, which `enable()` and the command set.

CUDA's processes share tensors on the device. No other device's do, so a tensor is sent as a copy.
"""

from __future__ import annotations

import functools
import os
import pickle
from collections.abc import Callable
from multiprocessing import spawn
from multiprocessing.context import get_spawning_popen
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.multiprocessing import reductions

from .._active import current
from .._log import warn_once
from .._patches import Hook, Patch, imported, late
from .._variables import ACTIVATE

__all__ = ["PATCHES"]

_KEY = "torchdevice"
_POOL = "multiprocessing.pool"

# Read before the child has the parent's `sys.path`: where the package is found only by that, the
# child must go on as it is. So this is code, and not a function of the package.
_BEGIN = """\
try:
    from torchdevice_mode._startup import begin_as_told
except ImportError:
    pass
else:
    begin_as_told({variables!r})
"""


class _ToldWhenRead:
    """Pickled as something that begins redirection where it is unpickled."""

    def __init__(self, variables: dict[str, str | None]) -> None:
        self._variables = variables

    def __reduce__(self) -> Any:
        return exec, (_BEGIN.format(variables=self._variables),)


def _tell(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    @functools.wraps(original)
    def get_preparation_data(name: str) -> dict[str, Any]:
        data = original(name)
        context = current()
        if context is not None:
            data[_KEY] = _ToldWhenRead(context.variables_for_children(context.settings))
        elif ACTIVATE in os.environ:
            # Plain torch here, by `native()`: the start-up hook must not redirect the child.
            data[_KEY] = _ToldWhenRead({ACTIVATE: None})
        return data

    return get_preparation_data


class _AfterTelling:
    """A queue for results, before each of which the process tells what it counted."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def put(self, result: Any) -> None:
        context = current()
        if context is not None:
            context.tell_parent()
        self._queue.put(result)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)


def _tell_between_tasks(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def worker(inqueue: Any, outqueue: Any, *rest: Any, **named: Any) -> None:
        original(inqueue, _AfterTelling(outqueue), *rest, **named)

    return worker


# --- tensors ------------------------------------------------------------------------------------

# What processes share as it is, or what holds no data.
_SHARED = frozenset({"cpu", "cuda", "meta"})


def _send(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def reduce_tensor(tensor: torch.Tensor) -> Any:
        context = current()
        if context is None or tensor.device.type in _SHARED:
            return original(tensor)
        if tensor.requires_grad and not tensor.is_leaf:
            return original(tensor)  # refuses
        torch.utils.hooks.warn_if_has_hooks(tensor)
        if tensor.requires_grad:
            warn_once(
                "sent-by-copy",
                f"A parameter on {tensor.device} goes to another process as a copy, which does "
                f"not follow what is trained here: call share_memory() on the model first.",
            )
        # Past our own mode, which would move this copy back.
        with torch._C.DisableTorchFunction(), torch.no_grad():
            host = tensor.detach().cpu()
            # What a process is started with travels by file descriptors that must stay open until
            # it runs; those of this copy would close with it.
            sent = pickle.dumps(host) if get_spawning_popen() is not None else host
        kind = torch.nn.Parameter if isinstance(tensor, torch.nn.Parameter) else torch.Tensor
        return _receive, (kind, sent, str(tensor.device), tensor.requires_grad)

    return reduce_tensor


def _receive(
    kind: type[torch.Tensor], sent: torch.Tensor | bytes, device: str, requires_grad: bool
) -> torch.Tensor:
    """A tensor on the device that it was sent from, as this process redirects that."""
    context = current()
    wanted: Any = device
    if context is not None:
        on_cpu = context.target.type == "cpu"
        wanted = "cpu" if on_cpu else context.resolve(device).device or device
    with torch._C.DisableTorchFunction(), torch.no_grad():
        host = pickle.loads(sent) if isinstance(sent, bytes) else sent
        made = host.to(wanted)
    if kind is torch.nn.Parameter:
        return torch.nn.Parameter(made, requires_grad=requires_grad)
    return made.requires_grad_(requires_grad)


def _register_reducers() -> Callable[[], None]:
    """Stand between multiprocessing and torch's way of sending tensors."""
    registered = vars(ForkingPickler)["_extra_reducers"]
    plain = reductions.reduce_tensor
    ours = _send(plain)
    kinds = [kind for kind, function in registered.items() if function is plain]
    registered.update(dict.fromkeys(kinds, ours))

    def remove() -> None:
        registered.update({kind: plain for kind in kinds if registered.get(kind) is ours})

    return remove


PATCHES: tuple[Patch | Hook, ...] = (
    Patch(
        lambda: spawn,
        "get_preparation_data",
        _tell,
        "it gives what a process of multiprocessing reads first, before the program's own module",
    ),
    late(
        _POOL,
        Patch(
            imported(_POOL),
            "worker",
            _tell_between_tasks,
            "the end of a `with Pool()` block kills its workers, and they could not tell it then",
        ),
    ),
    Hook(_register_reducers, "torch can send tensors of the CPU and of CUDA to processes only"),
)

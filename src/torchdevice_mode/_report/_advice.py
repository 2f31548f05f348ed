"""Which suggestions belong to an entry: what happened there, and what its line says."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .._kinds import PROFILED
from .._suggestions import Suggestion, for_event, for_name

__all__ = ["advise"]


def advise(
    kind: str, asked: str, names: Sequence[str], beside: Collection[str]
) -> tuple[Suggestion, ...]:
    """What to write instead, for one entry.

    Args:
        kind: As of `Site`.
        asked: As of `Site`.
        names: Names of torch in the statement.
        beside: All that was asked for at this line: names among it have entries of their own.

    Returns:
        The rows, none twice.
    """
    if kind in PROFILED:
        return ()
    if asked == "no device" and any(_is_accelerator(other) for other in beside):
        return ()  # what moves it from there is told, and does this as well
    of_event = for_event(kind, asked)
    if kind != "redirection" or asked == "no device" or asked.startswith("cpu"):
        return () if of_event is None else (of_event,)
    found = [for_name(name) for name in names if name not in beside]
    rows = dict.fromkeys(row for row in found if row is not None and _concerns(row.name))
    if not any(_asks(row.name) for row in rows):
        handed_on = for_event("redirection", "elsewhere")
        if handed_on is not None:
            rows = {handed_on: None, **rows}
    return tuple(rows)


def _concerns(name: str) -> bool:
    """Whether what a row is about has to do with where a tensor goes."""
    return _asks(name) or name.startswith("Tensor.")


def _is_accelerator(asked: str) -> bool:
    """Whether what was asked for is an accelerator, by name or by number."""
    return asked.partition(":")[0] in _ACCELERATORS or asked.isdecimal()


_ACCELERATORS = frozenset({"cuda", "mps", "xpu", "hpu", "npu", "mtia"})


def _asks(name: str) -> bool:
    """Whether what a row is about can ask for a device, and not only tell of one."""
    return name in _ASKING or name.startswith(("device ", "torch.cuda.amp."))


_ASKING = frozenset(
    {
        *("Tensor.cuda", "Tensor.type", "Module.cuda"),
        *("torch.autocast", "torch.amp.autocast", "torch.amp.GradScaler", "torch.Generator"),
        *("torch.set_default_tensor_type", "torch.load", "torch.distributed.init_process_group"),
        *("torch.nn.DataParallel", "torch.nn.parallel.DataParallel"),
        *("torch.cuda.set_device", "torch.cuda.device"),
    }
)

"""Which suggestions belong to an entry: what happened there, and what its line says."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .._kinds import PROFILED
from .._suggestions import Suggestion, for_event, for_name

__all__ = ["advise"]


def advise(
    kind: str, asked: str, names: Sequence[str] | None, beside: Collection[str]
) -> tuple[Suggestion, ...]:
    """What to write instead, for one entry.

    Args:
        kind: As of `Site`.
        asked: As of `Site`.
        names: Names of torch in the statement; None where it cannot be read.
        beside: All that was asked for at this line: names among it have entries of their own.

    Returns:
        The rows, none twice.
    """
    if kind in PROFILED:
        return ()
    if asked == "no device" and any(_is_accelerator(other) for other in beside):
        return ()  # what moves it from there is told, and does this as well
    if names is None or kind != "redirection" or asked.startswith(("cpu", "no device")):
        row = _row_of_event(kind, asked, names or ())
        return () if row is None else (row,)
    found = [for_name(name) for name in names if name not in beside]
    rows = dict.fromkeys(row for row in found if row is not None and _concerns(row.name))
    if not any(_asks(row.name) for row in rows):
        # A number may well come from another line, but says too little wherever it is from.
        named = for_name("device index") if asked.isdecimal() else for_event(kind, "elsewhere")
        if named is not None:
            rows = {named: None, **rows}
    return tuple(rows)


def _row_of_event(kind: str, asked: str, names: Sequence[str]) -> Suggestion | None:
    if kind == "answer" and "device choice" in names and asked.endswith(".is_available"):
        return for_name("device choice")  # the question alone would still choose CUDA
    if kind == "redirection" and "Tensor.cpu" in names and asked.startswith("cpu"):
        return for_name("Tensor.cpu")
    return for_event(kind, asked)


def _concerns(name: str) -> bool:
    """Whether what a row is about has to do with where a tensor goes."""
    return _asks(name) or (name.startswith("Tensor.") and name != "Tensor.cpu")


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

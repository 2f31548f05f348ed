"""float64 and complex128 on a target that lacks them: cast down, or kept on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

from ._caller import asked_by_torch
from ._context import Context, is_accelerator_request
from ._dtypes import NARROWER
from ._log import user_frame, warn_once
from ._on_cpu import Call, name_of
from ._rules import RULES
from ._rules.factories import make, make_from_data, make_normal

__all__ = ["cast_down", "keep_on_cpu", "note_downcast"]

# Without a dtype these make what their data or the default dtype says, which may be float64.
_CHOOSE_DTYPE = (make, make_from_data, make_normal)
_WIDENING = {"double": torch.float32, "cdouble": torch.complex64}


def cast_down(context: Context, call: Call, frame: Any, text: str) -> Call | None:
    """Make the call with float32 in place of float64, and complex64 in place of complex128.

    Not for torch's own code: where it rebuilds a tensor over a storage, another dtype would read
    the bytes wrongly.
    """
    if asked_by_torch(frame, absent=True):
        return None
    func, args, kwargs = call
    name = name_of(func)
    changed = False

    def narrowed(leaf: Any) -> Any:
        nonlocal changed
        if isinstance(leaf, torch.dtype) and leaf in NARROWER:
            changed = True
            return NARROWER[leaf]
        if isinstance(leaf, torch.Tensor) and leaf.dtype in NARROWER:
            changed = True
            return leaf.to(NARROWER[leaf.dtype])
        return leaf

    new_args, new_kwargs = pytree.tree_map(narrowed, (args, kwargs))
    if name in _WIDENING:
        func, new_args, new_kwargs = torch.Tensor.to, (new_args[0], _WIDENING[name]), {}
    elif name == "type" and len(new_args) > 1 and _names_double(new_args[1]):
        new_args = (new_args[0], new_args[1].replace("Double", "Float"), *new_args[2:])
    elif RULES.get(func) in _CHOOSE_DTYPE and new_kwargs.get("dtype") is None:
        new_kwargs["dtype"] = torch.complex64 if "Complex" in text else torch.float32
    elif not changed:
        return None
    note_downcast(context, name, frame)
    return func, new_args, new_kwargs


def _names_double(leaf: Any) -> bool:
    return isinstance(leaf, str) and leaf.endswith("DoubleTensor")


def keep_on_cpu(context: Context, call: Call, frame: Any) -> Call | None:
    """Make the call on the CPU, which has float64."""
    if asked_by_torch(frame, absent=True):
        return None
    func, args, kwargs = call
    cpu = torch.device("cpu")
    name = name_of(func)

    def on_cpu(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return leaf.to(cpu)
        named = isinstance(leaf, (torch.device, str)) and not isinstance(leaf, bool)
        return cpu if named and is_accelerator_request(leaf) else leaf

    new_args, new_kwargs = pytree.tree_map(on_cpu, (args, kwargs))
    if name in ("cuda", context.cuda_type.type):
        func, new_args, new_kwargs = torch.Tensor.to, (new_args[0], cpu), {}
    elif name == "type" and len(new_args) > 1 and _names_double(new_args[1]):
        new_args = (new_args[0], torch.float64)
    elif "device" not in new_kwargs and RULES.get(func) in _CHOOSE_DTYPE:
        new_kwargs["device"] = cpu
    reason = f"{context.target.type} has no float64, which is to stay on the CPU"
    context.record("fallback", f"float64 in {name}", cpu, reason, frame)

    def past_the_rules(*args: Any, **kwargs: Any) -> Any:
        # A rule would send a request for the CPU back to the target.
        return func(*args, **kwargs)

    return past_the_rules, new_args, new_kwargs


def note_downcast(context: Context, name: str, frame: Any) -> None:
    """Count a downcast and warn at its call site, once."""
    context.record(
        "downcast", f"float64 in {name}", "float32", f"{context.target.type} has no float64", frame
    )
    user = user_frame(frame)
    site = None if user is None else (user.f_code.co_filename, user.f_lineno)
    warn_once(
        "float64-downcast",
        f"{name} asked for float64, which {context.target.type} lacks, and got float32: use "
        f'float32 here, or float64="cpu" to keep such tensors on the CPU.',
        key=site,
    )

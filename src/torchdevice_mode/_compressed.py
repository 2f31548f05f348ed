"""Compressed sparse tensors (CSR, CSC, BSR, BSC) on a target that has none: they stay on the CPU.

torch's Metal backend can neither make nor hold them. So a request for one on the target gives one
on the CPU, and a call that has one among tensors of the target is made on the CPU; what comes out
of it that is not compressed goes back to the target.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ._context import Context, is_accelerator_request
from ._log import warn_once
from ._on_cpu import Call, compute_on_cpu
from ._origins import origin
from ._writes import name_of

__all__ = ["is_about_compressed", "keep_compressed"]

_TEXT = r"Could not run 'new_compressed_tensor'|from the 'SparseCsr\w+' backend"
_MOVES = frozenset(("to", "cuda", "mps"))


def is_about_compressed(error: Exception) -> bool:
    """Whether torch says that the target has no compressed sparse tensors."""
    return isinstance(error, NotImplementedError) and re.search(_TEXT, str(error)) is not None


def keep_compressed(context: Context, call: Call, error: Exception, frame: Any) -> Call | None:
    """Make the call with its compressed tensors on the CPU.

    Args:
        context: The redirection.
        call: Function, positional and keyword arguments.
        error: What torch said.
        frame: The frame that called torch.

    Returns:
        A call that does so; None where nothing is asked of the target.
    """
    func, args, kwargs = call
    name = name_of(func)
    user = origin(frame)
    warn_once(
        "compressed-sparse",
        f"{name} gives or takes a compressed sparse tensor, which {context.target.type} lacks, so "
        f"such tensors stay on the CPU: use COO tensors (to_sparse()) where speed matters.",
        key=name,
        place=user,
    )
    if name not in _MOVES:
        return compute_on_cpu(context, call, str(error), frame, warn=False, also_makes=True)
    cpu = torch.device("cpu")
    if name != "to":
        func, args, kwargs = torch.Tensor.to, (args[0], cpu), {}

    def on_cpu(leaf: Any) -> Any:
        named = isinstance(leaf, (torch.device, str)) and is_accelerator_request(leaf)
        return cpu if named else leaf

    args, kwargs = pytree.tree_map(on_cpu, (args, kwargs))
    reason = f"{context.target.type} has no compressed sparse tensors"
    context.record("fallback", f"a compressed tensor in {name}", cpu, reason, frame)

    @functools.wraps(func)
    def past_the_rules(*args: Any, **kwargs: Any) -> Any:
        # A rule would send a request for the CPU back to the target.
        return func(*args, **kwargs)

    return past_the_rules, args, kwargs

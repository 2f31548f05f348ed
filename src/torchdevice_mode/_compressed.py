"""Compressed sparse tensors (CSR, CSC, BSR, BSC) on a target that has none: they stay on the CPU.

torch's Metal backend can neither make nor hold them. So a request for one on the target gives one
on the CPU, and a call that has one among tensors of the target is made on the CPU; what comes out
of it that is not compressed goes back to the target.
"""

from __future__ import annotations

import re
from typing import Any

from ._context import Context
from ._float64 import stay_on_cpu
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
    name = name_of(call[0])
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
    reason = f"{context.target.type} has no compressed sparse tensors"
    context.record("fallback", f"a compressed tensor in {name}", "cpu", reason, frame)
    return stay_on_cpu(context, call)

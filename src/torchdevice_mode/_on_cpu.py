"""A whole call on the CPU, for what the target refuses although it has a kernel for it.

Metal's kernels refuse some dtypes, numbers of dimensions and options, each in words of its own. The
call is then made on copies on the CPU, and results are brought back; gradients flow through the
copies. What the backward pass refuses cannot be repeated so: it is half done by then.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ._context import Context, is_accelerator_request
from ._downcast import brought_back
from ._dtypes import bytes_of
from ._log import warn_once
from ._origins import origin
from ._writes import Writes, name_of, writes

__all__ = [
    "COMPRESSED",
    "Call",
    "compute_on_cpu",
    "refusal",
    "refuses_on_the_target",
    "then_copied_back",
]

# Layouts that the target has no tensors of.
COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

_NOT = r"(not|n't)( yet| currently)? (be )?(support|implement)|unsupported|only support"
# "Conv3D is not supported on MPS", "MPS does not support cumsum op with int64 input".
_BY_NAME = rf"\bmps\b.*({_NOT})|({_NOT}).*\bmps\b|\bmps\b.* (supports float\w* only|dimensions <=)"
# Metal's own as well, though they do not name it: "Only float is supported!".
_WITHOUT_NAME = (
    r"Undefined type|not implemented for '\w+'|^Adaptive pool MPS|_mps only supports|requires macOS"
    r"|only for Floating types|Only \w+ is supported!|not supported for complex types yet"
    r"|not supported for tensors (of|with) more than"
)
_REFUSALS = rf"(?i){_BY_NAME}|{_WITHOUT_NAME}"
_COLLECTIVES = r"(?i)c10d|distributed operators"
# Calls that move, share or differentiate what they are given: done elsewhere they are undone.
_NOT_ELSEWHERE = frozenset(
    ("backward", "to", "cpu", "cuda", "type", "pin_memory", "share_memory_", "numpy", "_parse_to")
)


def refuses_on_the_target(context: Context, error: Exception) -> bool:
    """Whether an error says that the target cannot do what the CPU may be able to do."""
    if context.target.type != "mps" or not isinstance(error, (RuntimeError, TypeError, ValueError)):
        return False
    text = str(error)
    return re.search(_REFUSALS, text) is not None and not re.search(_COLLECTIVES, text)


def refusal(context: Context, why: Exception | str) -> str:
    """The reason for the ledger: who refuses, and the first line of what it says."""
    return f"{context.target.type} refuses it: {str(why).strip().partition(chr(10))[0][:80]}"


def compute_on_cpu(
    context: Context,
    call: Call,
    why: str,
    frame: Any,
    *,
    warn: bool = True,
    also_makes: bool = False,
) -> Call | None:
    """Make a call on the CPU and bring its results back.

    Args:
        context: The redirection.
        call: Function, positional and keyword arguments.
        why: What the target said; the first line goes into the ledger.
        frame: The frame that called torch.
        warn: Whether to say so, once for each function.
        also_makes: Whether a call that only asks for a tensor on the target is made, too.

    Returns:
        A call that does so; None where nothing of it is on the target.
    """
    func, args, kwargs = call
    if name_of(func) in _NOT_ELSEWHERE:
        return None
    copies: dict[int, torch.Tensor] = {}
    moved = 0
    asked = False

    def to_cpu(leaf: Any) -> Any:
        nonlocal moved, asked
        if isinstance(leaf, torch.Tensor) and leaf.device.type == context.target.type:
            copy = copies.get(id(leaf))
            if copy is None:
                copy = copies[id(leaf)] = leaf.to("cpu")
                moved += bytes_of(leaf)
            return copy
        if isinstance(leaf, (torch.device, str)) and is_accelerator_request(leaf):
            asked = True
            return torch.device("cpu")
        return leaf

    began = time.perf_counter()
    with context.unprofiled():
        new_args, new_kwargs = pytree.tree_map(to_cpu, (args, kwargs))
    if not copies and not (asked and also_makes):
        return None
    name = name_of(func)
    reason = refusal(context, why)

    written = writes(func, args, kwargs)
    copied_back = then_copied_back(func, written, copies)
    held = {id(tensor) for tensor in (*written.into, *written.aside)}

    def back(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or leaf.device.type != "cpu" or id(leaf) in held:
            return leaf
        if leaf.layout in COMPRESSED or leaf.is_quantized:
            return leaf
        return brought_back(context, leaf, name, frame)

    @functools.wraps(func)
    def and_back(*args: Any, **kwargs: Any) -> Any:
        with context.unprofiled():
            result = pytree.tree_map(back, copied_back(*args, **kwargs))
        seconds = time.perf_counter() - began
        user = origin(frame)
        context.record_cost("fallback", name, "cpu", reason, user, moved=moved, seconds=seconds)
        if warn:
            warn_once(
                "fallback-call",
                f"{name} runs on the CPU here, because {reason}: each such call copies its tensors "
                f"to and fro, so change it where it is called often.",
                key=name,
                place=user,
            )
        return result

    return and_back, new_args, new_kwargs


def then_copied_back(
    func: Callable[..., Any], written: Writes, copies: dict[int, torch.Tensor]
) -> Callable[..., Any]:
    """A call that writes into copies, and then into what the program holds.

    Args:
        func: The function that is called with copies.
        written: What the program holds, and the call writes into.
        copies: Copies of it, and of other tensors, by the `id` of what they are copies of.

    Returns:
        The call; it returns what the program holds in place of copies of that.
    """
    if not written.into and not written.aside:
        return func
    into, aside = ([(t, copies[id(t)]) for t in tensors if id(t) in copies] for tensors in written)

    @functools.wraps(func)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = func(*args, **kwargs)
        for held, copy in into:
            _write_back(held, copy)
        with torch.no_grad():
            for held, copy in aside:
                _write_back(held, copy)
        originals = {id(copy): held for held, copy in (*into, *aside)}
        return pytree.tree_map(lambda leaf: originals.get(id(leaf), leaf), result)

    return call


def _write_back(held: torch.Tensor, copy: torch.Tensor) -> None:
    if held.shape != copy.shape:
        held.resize_(copy.shape)
    if held.device.type == "cpu":
        copy = copy.to("cpu")  # Metal would have to convert to float64, and cannot
    # A leaf that requires a gradient is written under `no_grad` only, as the program did.
    with torch.set_grad_enabled(torch.is_grad_enabled() and copy.requires_grad):
        held.copy_(copy)

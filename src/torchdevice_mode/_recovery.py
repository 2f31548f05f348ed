"""What is done when torch refuses a call: costs nothing where nothing is wrong.

A call is made as it came. If torch refuses it for a reason that redirection answers for, the
call is made once more, through the rules, with what was wrong put right; it may be refused again
for another reason. torch checks devices and dtypes before it computes, so the refused call has
changed nothing.

In the order in which they are tried: float64 that the target lacks is cast down, or stays on the
CPU; a stray CPU tensor is *adopted*; an operator that the target lacks gets a kernel; a request
for an absent accelerator that no rule saw is rewritten; what the target has a kernel for, but not
for these dtypes or shapes, is computed on the CPU. Memory that ran out is reported as the exception
that CUDA programs catch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ._adoption import adopt, hand_over
from ._caller import calling_frame
from ._compressed import is_about_compressed, keep_compressed
from ._context import Context, is_accelerator_request
from ._downcast import refused_dtype
from ._dtensors import is_mixed, replicating
from ._fallback import kernels
from ._float64 import (
    cast_down,
    exceeds_float32,
    explain_refusal,
    holds_float64,
    mixes_widths,
    saturate,
    settle,
)
from ._log import user_frame
from ._mismatch import is_mismatch, wants_cpu
from ._on_cpu import Call, compute_on_cpu, refuses_on_the_target
from ._out_of_memory import is_out_of_memory, out_of_memory
from ._rules import RULES
from ._tracing import resume_tracer

__all__ = ["call_anew", "recover"]

_ABSENT_ACCELERATOR = (
    r"Torch not compiled with|not compiled with \w+ enabled|from the '\w+' backend"
    r"|not linked with support for|without \w+ support|No CUDA GPUs|Found no NVIDIA driver"
    r"|Cannot initialize \w+ without|Cannot get \w+ generator|Invalid device string"
    r"|Expected one of cpu|Cannot access accelerator device|is not available"
)
# There are no quantised tensors on MPS; they stay on the CPU.
_NO_QUANTIZED = "'QuantizedMPS' backend"
_NO_KERNEL = (
    r"The operator '([\w:.]+)' is not currently implemented for the"
    r"|Could not run '([\w:.]+)' with arguments from the '\w+' backend"
)


def recover(
    context: Context,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    error: Exception,
) -> Call | None:
    """Find a way to make a refused call succeed.

    Args:
        context: The redirection.
        func: The torch function that raised.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        error: What it raised.

    Returns:
        Function, positional and keyword arguments to call anew, with what was found wrong put
        right, so that no cause is found twice; None to let the error pass.

    Raises:
        torch.OutOfMemoryError: In place of the target's own out-of-memory error.
    """
    resume_tracer()
    # Not raised anew: a traceback that holds this frame, which holds the error, is a cycle, and
    # would keep the call's tensors until the garbage collector runs.
    if is_out_of_memory(context, error):
        raise out_of_memory(error) from error
    frame = calling_frame(2)
    try:
        return _way_out(context, (func, args, kwargs), error, frame)
    except RuntimeError as failed:
        # A copy that adoption makes may run out of memory, too.
        if is_out_of_memory(context, failed):
            raise out_of_memory(failed) from failed
        raise


def call_anew(
    context: Context, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Make a call for which `recover` found a way, through the rules, as often as it finds one.

    What the program asked for was counted when the call was first made, and is not counted again.

    Args:
        context: The redirection.
        func: As `recover` gave it.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Returns:
        What the call returns.
    """
    with context.ledger.counting_once(user_frame(calling_frame(1))):
        while True:
            try:
                if func in RULES:
                    return RULES[func](context, func, args, kwargs)
                return func(*args, **kwargs)
            except Exception as error:
                call = recover(context, func, args, kwargs, error)
                if call is None:
                    raise
            func, args, kwargs = call


def _way_out(context: Context, call: Call, error: Exception, frame: Any) -> Call | None:
    text = str(error)
    refused = refused_dtype(text) if isinstance(error, (TypeError, RuntimeError)) else None
    if refused is not None:
        return settle(context, call, frame, error, refused)
    if wants_cpu(error):
        return hand_over(context, call, frame)
    if is_mismatch(error):
        adopted = adopt(context, call, frame)
        if adopted is not None:
            return adopted
        if context.settings.float64 == "error" and holds_float64(call):
            explain_refusal(error)
        if _draws_on_cpu(call) and context.resolve("cpu").redirected:
            # The CPU's own generator, in code for the CPU.
            return compute_on_cpu(context, call, text, frame, warn=False)
    if exceeds_float32(context, text):
        return saturate(context, call, frame)
    mixed = mixes_widths(context, call, text)
    if mixed is not None:
        way_out = adopt if mixed == "tensor" else cast_down
        return way_out(context, call, frame)
    if is_mixed(text):
        return replicating(call)
    if is_about_compressed(error):
        return keep_compressed(context, call, error, frame)
    if _NO_QUANTIZED in text and context.target.type == "mps":
        return compute_on_cpu(context, call, text, frame)
    lacking = re.search(_NO_KERNEL, text)
    if lacking and kernels.add(lacking[1] or lacking[2], context.target.type):
        return call
    if re.search(_ABSENT_ACCELERATOR, text):
        return _rewrite_requests(context, call, frame)
    if refuses_on_the_target(context, error):
        return compute_on_cpu(context, call, text, frame, also_makes=True)
    return None


def _draws_on_cpu(call: Call) -> bool:
    return any(
        isinstance(leaf, torch._C.Generator) and leaf.device.type == "cpu"
        for leaf in pytree.tree_leaves(call[1:])
    )


# --- requests that no rule saw --------------------------------------------------------------


def _rewrite_requests(context: Context, call: Call, frame: Any) -> Call | None:
    """Rewrite accelerator requests among the arguments, and those made below the call.

    Custom operators and `torch.ops` reach here: they take devices like any function, and may
    make requests in C++ that only the dispatch mode sees.
    """
    from ._dispatch_mode import RedirectDispatchMode

    func, args, kwargs = call
    # `nn.Module.to(0)` is read by `_parse_to`. It has no row, since Dynamo replaces it and then
    # cannot compare it with other keys; what it reads reaches `Tensor.to`, which has one.
    kinds = (torch.device, str, int) if func is torch._C._nn._parse_to else (torch.device, str)
    changed = False

    def rewritten(leaf: Any) -> Any:
        nonlocal changed
        if not isinstance(leaf, kinds) or not is_accelerator_request(leaf):
            return leaf
        device = context.device_for(leaf, frame)
        if device is None:
            return leaf
        changed = True
        return device

    new_args, new_kwargs = pytree.tree_map(rewritten, (args, kwargs))
    below = isinstance(func, (torch._ops.OpOverload, torch._ops.OpOverloadPacket))
    if not changed and not below:
        return None

    def under_the_dispatch_mode(*args: Any, **kwargs: Any) -> Any:
        with RedirectDispatchMode(context):
            return func(*args, **kwargs)

    return under_the_dispatch_mode, new_args, new_kwargs

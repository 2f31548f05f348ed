"""What is done when torch refuses a call: costs nothing where nothing is wrong.

A call is made as it came. If torch refuses it for a reason that redirection answers for, the
call is made once more, through the rules, with what was wrong put right; it may be refused again
for another reason. torch checks devices and dtypes before it computes, so the refused call has
changed nothing.

In the order in which they are tried: a stray CPU tensor is *adopted*; float64 that the target
lacks is cast down, or stays on the CPU; an operator that the target lacks gets a kernel; a request
for an absent accelerator that no rule saw is rewritten; what the target has a kernel for, but not
for these dtypes or shapes, is computed on the CPU. Memory that ran out is reported as the exception
that CUDA programs catch.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ._caller import asked_by_torch, calling_frame
from ._context import Context, is_accelerator_request
from ._dtypes import NARROWER
from ._fallback import kernels
from ._log import user_frame, warn_once
from ._on_cpu import compute_on_cpu, name_of, refuses_on_the_target, written
from ._out_of_memory import is_out_of_memory, out_of_memory
from ._rules import RULES
from ._rules.factories import make, make_from_data, make_normal

__all__ = ["recover"]

# Texts of torch 2.13 for operands on different devices; several backends word it their own way.
_MISMATCH = (
    r"(same|different|two|CPU|cpu|same-) ?devices?|device type|on (the )?cpu|on the same"
    r"|Placeholder storage has not been allocated|should be the same|CPU tensor"
    r"|indices should be|at the same device|device=|non-cpu|index is on|resides on host"
    r"|to have \S+ Device"
)
# Arguments that torch takes on the CPU only, after a first one that may be anywhere.
_WANTS_CPU = r"argument should be a 1D CPU int64 tensor|expected \w+ to be on cpu"
_NO_FLOAT64 = r"doesn't support float64|does not have support for that dtype"
_ABSENT_ACCELERATOR = (
    r"Torch not compiled with|not compiled with \w+ enabled|from the '\w+' backend"
    r"|not linked with support for|without \w+ support|No CUDA GPUs|Found no NVIDIA driver"
    r"|Cannot initialize \w+ without|Cannot get \w+ generator|Invalid device string"
    r"|Expected one of cpu|Cannot access accelerator device|is not available"
)
_NO_KERNEL = (
    r"The operator '([\w:.]+)' is not currently implemented for the"
    r"|Could not run '([\w:.]+)' with arguments from the '\w+' backend"
)


# Without a dtype these make what their data or the default dtype says, which may be float64.
_CHOOSE_DTYPE = (make, make_from_data, make_normal)

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


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


def _way_out(context: Context, call: Call, error: Exception, frame: Any) -> Call | None:
    text = str(error)
    if isinstance(error, RuntimeError) and re.search(_WANTS_CPU, text):
        return _hand_over(context, call, frame)
    if isinstance(error, (RuntimeError, IndexError, ValueError)) and re.search(_MISMATCH, text):
        adopted = _adopt(context, call, frame)
        if adopted is not None:
            return adopted
    if isinstance(error, (TypeError, RuntimeError)) and re.search(_NO_FLOAT64, text):
        if context.settings.float64 == "downcast":
            # Where nothing given is float64, the kernel makes it on the way.
            narrowed = _cast_down(context, call, frame, text)
            return narrowed or compute_on_cpu(context, call, text, frame)
        if context.settings.float64 == "cpu":
            return _keep_on_cpu(context, call, frame)
        return None
    lacking = re.search(_NO_KERNEL, text)
    if lacking and kernels.add(lacking[1] or lacking[2], context.target.type):
        return call
    if re.search(_ABSENT_ACCELERATOR, text):
        return _rewrite_requests(context, call, frame)
    if refuses_on_the_target(context, error):
        return compute_on_cpu(context, call, text, frame)
    return None


# --- stray CPU tensors ----------------------------------------------------------------------


def _adopt(context: Context, call: Call, frame: Any) -> Call | None:
    """Bring the operands of a call to one device.

    They go to the accelerator, except where the call writes into a CPU tensor: that very
    object must change, so the call is made on the CPU. So is a call with a float64 tensor that
    is to stay there. Random numbers are drawn where their generator is, and copied back.
    """
    func, args, kwargs = call
    leaves, spec = pytree.tree_flatten((args, kwargs))
    strays = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and _is_on_cpu(leaf)]
    accelerators = [
        leaf.device
        for leaf in leaves
        if isinstance(leaf, (torch.Tensor, torch._C.Generator))
        and leaf.device.type not in ("cpu", "meta")
    ]
    if not accelerators or not strays:
        return None
    drawn = any(isinstance(leaf, torch._C.Generator) for leaf in leaves)
    into = written(func, args, kwargs)
    wide = accelerators[0].type == "mps" and any(t.dtype in NARROWER for t in strays)
    destination = accelerators[0]
    if into and all(_is_on_cpu(t) for t in into) and not drawn:
        destination = torch.device("cpu")
    elif wide and not into:
        if context.settings.float64 == "error":
            return None
        if context.settings.float64 == "cpu" and not drawn:
            destination = torch.device("cpu")
        elif not asked_by_torch(frame, absent=True):
            note_downcast(context, name_of(func), frame)

    moved: dict[int, torch.Tensor] = {
        id(leaf): _to_device(leaf, destination)
        for leaf in leaves
        if isinstance(leaf, torch.Tensor) and leaf.device != destination
    }
    if not moved:
        return None
    asked = f"a CPU tensor in {name_of(func)}"
    context.record("adoption", asked, destination, "it met an accelerator tensor", frame)
    new_leaves = [moved.get(id(leaf), leaf) for leaf in leaves]
    new_args, new_kwargs = pytree.tree_unflatten(new_leaves, spec)
    copied_back = [(t, moved[id(t)]) for t in into if id(t) in moved]
    return _then_copied_back(func, copied_back) if copied_back else func, new_args, new_kwargs


def _is_on_cpu(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu"


def _then_copied_back(
    func: Callable[..., Any], pairs: list[tuple[torch.Tensor, torch.Tensor]]
) -> Callable[..., Any]:
    """A call that writes into moved tensors, and then into those that the program holds."""

    @functools.wraps(func)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = func(*args, **kwargs)
        with torch.no_grad():
            for held, moved in pairs:
                held.copy_(moved)
        originals = {id(moved): held for held, moved in pairs}
        return pytree.tree_map(lambda leaf: originals.get(id(leaf), leaf), result)

    return call


def _hand_over(context: Context, call: Call, frame: Any) -> Call | None:
    """Bring what torch takes on the CPU only there: lengths of sequences, places to split at.

    Programs make them without a device, and would have found them on the CPU.
    """
    func, args, kwargs = call
    if all(
        _is_on_cpu(leaf)
        for leaf in pytree.tree_leaves((args[1:], kwargs))
        if isinstance(leaf, torch.Tensor)
    ):
        return None
    new_rest, new_kwargs = pytree.tree_map_only(torch.Tensor, torch.Tensor.cpu, (args[1:], kwargs))
    asked = f"an accelerator tensor in {name_of(func)}"
    context.record("adoption", asked, "cpu", "torch takes it on the CPU only", frame)
    return func, (*args[:1], *new_rest), new_kwargs


def _to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move a tensor, narrowed where the device lacks its dtype; gradients flow back."""
    if device.type == "mps" and tensor.dtype in NARROWER:
        tensor = tensor.to(NARROWER[tensor.dtype])
    return tensor.to(device)


# --- float64 --------------------------------------------------------------------------------


def _cast_down(context: Context, call: Call, frame: Any, text: str) -> Call | None:
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


_WIDENING = {"double": torch.float32, "cdouble": torch.complex64}


def _names_double(leaf: Any) -> bool:
    return isinstance(leaf, str) and leaf.endswith("DoubleTensor")


def _keep_on_cpu(context: Context, call: Call, frame: Any) -> Call | None:
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

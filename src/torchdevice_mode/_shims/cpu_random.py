"""`rng="cpu"`: random numbers are drawn on the CPU and moved to the target.

Random numbers are drawn by a few aten operators that everything else ends in: `torch.rand` in
`uniform_`, dropout in `bernoulli_`, also where torch calls them from C++ or in recomputation. So
for the target those operators get kernels of ours, while a redirection with `rng="cpu"` holds
somewhere. In threads where none does, and for generators of the target's own, they call the
kernels that they stand in front of. A program whose numbers are drawn on the target pays nothing.

CPU kernels fill memory in an order that depends on its layout, so a tensor is drawn into memory
of the same layout, and copied.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.library

from .._active import drawn_on_cpu

__all__ = ["DRAWING", "begin", "end"]

DRAWING = (
    "_sample_dirichlet",
    "_standard_gamma",
    "bernoulli.out",
    "bernoulli_.Tensor",
    "bernoulli_.float",
    "binomial",
    "cauchy_",
    "exponential_",
    "geometric_",
    "log_normal_",
    "multinomial",
    "multinomial.out",
    "native_dropout",
    "normal.Tensor_Tensor",
    "normal.Tensor_Tensor_out",
    "normal.Tensor_float",
    "normal.Tensor_float_out",
    "normal.float_Tensor",
    "normal.float_Tensor_out",
    "normal_",
    "poisson",
    "random_",
    "random_.from",
    "random_.to",
    "randperm.generator_out",
    "rrelu_with_noise",
    "rrelu_with_noise.out",
    "rrelu_with_noise_",
    "uniform_",
)
"""The aten operators that draw; every other random operator of torch is made of these."""

# Written arguments that are read as well; the others' contents are of no interest.
_READ_TOO = frozenset({"rrelu_with_noise_"})

_Kernel = Callable[..., Any]
# An operator, the dispatch key, and what makes the kernel from the one that was there.
_Row = tuple[str, str, Callable[[Any], _Kernel]]


# --- kernels ------------------------------------------------------------------------------------


def _kernel(name: str, original: Any) -> _Kernel:
    """A kernel for the target that has the CPU's draw."""
    packet, _, overload = name.partition(".")
    operator = getattr(getattr(torch.ops.aten, packet), overload or "default")
    arguments = operator._schema.arguments
    written = frozenset(
        argument.name
        for argument in arguments
        if argument.alias_info and argument.alias_info.is_write
    )
    names = [argument.name for argument in arguments]
    reads_written = packet in _READ_TOO

    @functools.wraps(operator, updated=())
    def kernel(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        generator = given.get("generator")
        if not drawn_on_cpu() or (generator is not None and generator.device.type != "cpu"):
            return original.call_boxed(keyset, *args, **kwargs)
        # A mode of ours may be on, as under TorchScript: what is asked for here is meant.
        with torch._C.DisableTorchFunction():
            return _drawn(operator, given, written, reads_written)

    return kernel


def _drawn(
    operator: Any, given: dict[str, Any], written: frozenset[str], reads_written: bool
) -> Any:
    """Call an operator with arguments on the CPU; bring back what it wrote and what it returns."""
    on_cpu: dict[str, Any] = {}
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    device = None
    for name, value in given.items():
        on_cpu[name] = value
        if isinstance(value, torch.Tensor) and value.device.type != "cpu":
            device = value.device
            if name in written:
                on_cpu[name] = host = torch.empty_strided(
                    value.size(), value.stride(), dtype=value.dtype, device="cpu"
                )
                if reads_written:
                    host.copy_(value)
                pairs.append((value, host))
            else:
                on_cpu[name] = value.to("cpu")
    result = operator(**on_cpu)
    for held, host in pairs:
        if held.shape != host.shape:  # an `out=` of another size
            held.resize_(host.shape)
        held.copy_(host)
    brought = {id(host): held for held, host in pairs}

    def back(value: Any) -> Any:
        return brought[id(value)] if id(value) in brought else value.to(device)

    return tuple(map(back, result)) if isinstance(result, tuple) else back(result)


def _dropout(original: Any) -> _Kernel:
    """Dropout as the CPU computes it, where torch has one kernel that draws and multiplies."""

    def kernel(keyset: Any, input: torch.Tensor, p: float, train: bool) -> Any:
        if not drawn_on_cpu() or not train or not 0 < p < 1:
            return original.call_boxed(keyset, input, p, train)
        return input * torch.empty_like(input).bernoulli_(1 - p).div_(1 - p)

    return kernel


def _lstm(original: Any) -> _Kernel:
    """An LSTM layer by layer, where dropout between them is part of one kernel, as Metal has it."""

    def kernel(keyset: Any, input: torch.Tensor, hx: Any, params: Any, *options: Any) -> Any:
        has_biases, num_layers, dropout, train, bidirectional, batch_first = options
        if not drawn_on_cpu() or not train or not dropout or num_layers < 2:
            return original.call_boxed(keyset, input, hx, params, *options)
        directions = 2 if bidirectional else 1
        weights = len(params) // num_layers
        # Masks are drawn over memory with the time first, whatever comes first in the input.
        output = input.transpose(0, 1) if batch_first else input
        hidden, cells = [], []
        for layer in range(num_layers):
            if layer:
                output = torch.dropout(output, dropout, True)
            states = [state.narrow(0, layer * directions, directions) for state in hx]
            own = params[layer * weights : (layer + 1) * weights]
            output, h, c = torch.lstm(
                output, states, own, has_biases, 1, 0.0, train, bidirectional, False
            )
            hidden.append(h)
            cells.append(c)
        if batch_first:
            output = output.transpose(0, 1)
        return output, torch.cat(hidden), torch.cat(cells)

    return kernel


# Composites that draw in a kernel of the target's own: what makes theirs, and on which devices.
_COMPOSITES: tuple[tuple[str, Callable[[Any], _Kernel], Callable[[str], bool]], ...] = (
    ("dropout", _dropout, lambda kind: kind != "mps"),
    ("lstm.input", _lstm, lambda kind: kind == "mps"),
)


# --- registration -------------------------------------------------------------------------------

# By device type: the registrations, and how many redirections need them. The session's lock is
# held wherever these change.
_registered: dict[str, tuple[torch.library.Library, int]] = {}


def begin(kind: str) -> None:
    """Register the kernels for a device type, or count one more redirection that needs them."""
    if kind == "cpu":
        return
    if kind in _registered:
        library, count = _registered[kind]
        _registered[kind] = library, count + 1
        return
    library = torch.library.Library("aten", "IMPL")
    try:
        with warnings.catch_warnings():
            # "Overriding a previously registered kernel": that is the purpose.
            warnings.simplefilter("ignore")
            _register(library, kind)
    except BaseException:
        library._destroy()
        raise
    _registered[kind] = library, 1


def _register(library: torch.library.Library, kind: str) -> None:
    key = torch._C._dispatch_key_for_device(kind)
    rows: list[_Row] = [(name, key, functools.partial(_kernel, name)) for name in DRAWING]
    for name, make, is_needed in _COMPOSITES:
        if is_needed(kind):
            rows += [(name, key, make), (name, f"Autograd{key}", make)]
    # All of them first: a kernel for a device changes what torch computes for its Autograd key.
    kernels = [make(torch.library.get_kernel(f"aten::{name}", at)) for name, at, make in rows]
    for (name, at, _), kernel in zip(rows, kernels, strict=True):
        library.impl(name, kernel, at, with_keyset=True, allow_override=True)


def end(kind: str) -> None:
    """Take back what `begin` did."""
    if kind not in _registered:
        return
    library, count = _registered.pop(kind)
    if count > 1:
        _registered[kind] = library, count - 1
    else:
        library._destroy()

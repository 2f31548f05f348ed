"""One entry of a database: run plain on the CPU, and as redirected CUDA code, and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch.testing._internal.common_modules import module_db
from torch.testing._internal.common_optimizers import optim_db

from tests.simulate._database import (
    OPERATORS,
    SAMPLES,
    assert_same,
    call,
    gradients,
    inputs_on,
    samples,
)
from tests.simulate._modules import assert_close, made, stepped, trained
from torchdevice_mode import redirect

__all__ = ["ENTRIES", "Outcome", "check"]

CPU = torch.device("cpu")
# float64 is what the target lacks: it is narrowed, so that values would differ by rounding.
DTYPES = (
    torch.float32,
    torch.int64,
    torch.bool,
    torch.complex64,
    torch.float16,
    torch.bfloat16,
)
_WIDE = {torch.float64: torch.float32, torch.complex128: torch.complex64}

MODULES = {info.name: info for info in module_db}
OPTIMIZERS = {f"optim.{info.optim_cls.__name__}": info for info in optim_db}
ENTRIES = (*OPERATORS, *MODULES, *OPTIMIZERS)
"""Names of all entries; those of modules and optimizers have a prefix that operators have not."""


class Outcome(dict[str, Any]):
    """What came of an entry, as it is written down.

    Keys:
        name: The entry.
        compared: How many pairs of runs were compared.
        errors: How many bad inputs raised, and alike.
        different: The first difference of each check, as text; empty if there is none.
    """


def check(name: str) -> Outcome:
    """Run everything that the database has for an entry."""
    outcome = Outcome(name=name, compared=0, errors=0, different={})
    if name in OPERATORS:
        checks: dict[str, Callable[[], Iterator[str]]] = {
            "forward": lambda: _forward(name),
            "backward": lambda: _backward(name),
            "errors": lambda: _errors(name),
        }
    elif name in MODULES:
        checks = {"training": lambda: _module(name)}
    else:
        checks = {"steps": lambda: _optimizer(name)}
    for what, run in checks.items():
        try:
            for kind in run():
                outcome[kind] += 1
        except Exception as error:
            first = str(error).strip().partition("\n")[0]
            outcome["different"][what] = f"{type(error).__name__}: {first}"[:200]
    if not outcome["compared"] and not outcome["different"]:
        outcome["different"]["all"] = "nothing could be compared"
    return outcome


def _redirected(operator: Any, op: Any, sample: Any) -> Any:
    """The call as a CUDA program makes it; the samples were made outside, on the CPU."""
    with redirect():
        args, kwargs = inputs_on(torch.device("cuda"), op, sample)
        return call(operator, args, kwargs)


def _narrowed(value: Any) -> Any:
    """What the CPU gave, in the dtypes that the target has."""

    def narrow(leaf: Any) -> Any:
        is_wide = isinstance(leaf, torch.Tensor) and leaf.dtype in _WIDE
        return leaf.to(_WIDE[leaf.dtype]) if is_wide else leaf

    return torch.utils._pytree.tree_map(narrow, value)


def _forward(name: str) -> Iterator[str]:
    op = OPERATORS[name]
    for dtype in DTYPES:
        if dtype not in op.dtypes:
            continue
        for sample in samples(op, dtype, most=SAMPLES):
            try:
                expected = call(op, *inputs_on(CPU, op, sample))
            except Exception:
                continue
            actual = _redirected(op, op, sample)
            assert_same(op, _narrowed(expected.result), actual.result, strides=False)
            yield "compared"


def _backward(name: str) -> Iterator[str]:
    op = OPERATORS[name]
    if not op.supports_autograd or torch.float32 not in op.supported_backward_dtypes("cpu"):
        return
    for sample in samples(op, torch.float32, grad=True, most=20):
        try:
            expected = gradients(op, sample, CPU)
        except Exception:
            continue
        if expected is None:
            continue
        with redirect():
            actual = gradients(op, sample, torch.device("cuda"))
        assert actual is not None
        assert_same(op, _narrowed(expected), actual, strides=False)
        yield "compared"


def _errors(name: str) -> Iterator[str]:
    op = OPERATORS[name]
    if op.error_inputs_func is None:
        return
    for bad in islice(op.error_inputs_func(op, "cpu"), 50):
        try:
            call(op, *inputs_on(CPU, op, bad.sample_input))
        except Exception as expected:
            try:
                _redirected(op, op, bad.sample_input)
            except type(expected):
                yield "errors"
            except Exception as actual:
                raise AssertionError(
                    f"{type(actual).__name__} instead of {type(expected).__name__}"
                ) from actual
            else:
                raise AssertionError(f"no {type(expected).__name__}: {expected}") from None


def _module(name: str) -> Iterator[str]:
    info = MODULES[name]
    for training in (True, False):
        for module, sample in made(info, training):
            try:
                expected = trained(module, sample, CPU)
            except RuntimeError:
                continue  # the database gives two modules what the CPU refuses
            with redirect():
                actual = trained(module, sample, torch.device("cuda"))
            assert_close(expected, actual)
            yield "compared"


def _optimizer(name: str) -> Iterator[str]:
    info = OPTIMIZERS[name]
    for sample in info.optim_inputs_func(device="cpu"):
        try:
            expected = stepped(info, sample.kwargs, CPU)
        except (RuntimeError, ValueError):
            continue  # these settings are not for the CPU
        with redirect():
            actual = stepped(info, sample.kwargs, torch.device("cuda"))
        # `.cpu()` under redirection is the target; outside of it, the CPU.
        actual = [weight.cpu() for weight in actual]
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
        yield "compared"

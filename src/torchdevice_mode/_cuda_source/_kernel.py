"""A kernel that is launched by grid and block, on tensors as memory."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ._evaluate import Memory, check, run
from ._lexer import NotTranslatedError
from ._syntax import Type, functions_of

__all__ = ["Kernel"]

_POINTEES: dict[str, tuple[torch.dtype, ...]] = {
    "float": (torch.float32,),
    "double": (torch.float64,),
    "half": (torch.float16,),
    "__half": (torch.float16,),
    "__nv_bfloat16": (torch.bfloat16,),
    "bool": (torch.bool, torch.uint8),
    "char": (torch.int8,),
    "signed char": (torch.int8,),
    "unsigned char": (torch.uint8, torch.bool),
    "int8_t": (torch.int8,),
    "uint8_t": (torch.uint8, torch.bool),
    "short": (torch.int16,),
    "int16_t": (torch.int16,),
    "int": (torch.int32,),
    "int32_t": (torch.int32,),
    "long": (torch.int64,),
    "long long": (torch.int64,),
    "int64_t": (torch.int64,),
}
_MOST_THREADS = 1024  # of a block


class Kernel:
    """A translated kernel.

    Args:
        source: C++.
        name: Which of its functions is launched.

    Raises:
        NotTranslatedError: For what has no translation.
    """

    def __init__(self, source: str, name: str) -> None:
        functions = {function.name: function for function in functions_of(source)}
        if name not in functions:
            raise NotTranslatedError(f"it defines no function `{name}`")
        self._function = functions.pop(name)
        self._others = functions
        for parameter in self._function.parameters:
            if parameter.type.pointer and parameter.type.name not in _POINTEES:
                what = f"a pointer to `{parameter.type.name}`"
                raise NotTranslatedError(what, self._function.line)
        for function in (self._function, *functions.values()):
            check(function, self._others)

    @torch.no_grad()
    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: list[Any],
        device: torch.device,
    ) -> None:
        """Launch.

        Args:
            grid: How many blocks, in up to three directions.
            block: How many threads each.
            args: A tensor for each pointer, a number for each other parameter.
            device: Where the tensors are.

        Raises:
            RuntimeError: For a size that CUDA refuses.
            TypeError: For arguments that are not of the parameters' types.
        """
        grid, block = ((*size, 1, 1, 1)[:3] for size in (grid, block))
        if math.prod(block) > _MOST_THREADS or min(*grid, *block) < 1:
            raise RuntimeError("CUDA error: invalid argument")
        expected = self._function.parameters
        if len(args) != len(expected):
            raise TypeError(
                f"{self._function.name} takes {len(expected)} arguments, not {len(args)}"
            )
        arguments = [_argument(a, p.type, p.name) for a, p in zip(args, expected, strict=True)]
        run(self._function, arguments, self._others, None, _threads(grid, block, device))


def _argument(value: Any, kind: Type, name: str) -> Any:
    if isinstance(value, Tensor) != kind.pointer:
        wanted = "a tensor" if kind.pointer else "a number"
        raise TypeError(f"the kernel's parameter {name} takes {wanted}, not {type(value).__name__}")
    if not isinstance(value, Tensor):
        if not isinstance(value, (int, float)):
            raise TypeError(f"Unsupported argument type: {type(value)}")
        return value
    if value.dtype not in _POINTEES[kind.name]:
        raise TypeError(
            f"the kernel's parameter {name} points to {kind.name}, and the tensor holds "
            f"{value.dtype}"
        )
    return Memory(value)


def _threads(grid: tuple[int, ...], block: tuple[int, ...], device: torch.device) -> dict[str, Any]:
    """The indices of each thread; where there is one direction only, it varies alone."""
    count = math.prod(grid) * math.prod(block)
    given: dict[str, Any] = {"threads": count}
    order = torch.arange(count, device=device)
    for name, sizes in (("threadIdx", block), ("blockIdx", grid)):
        for axis, size in zip("xyz", sizes, strict=True):
            given[f"{name}.{axis}"] = order % size if size > 1 else 0
            order = torch.div(order, size, rounding_mode="floor") if size > 1 else order
    for name, sizes in (("blockDim", block), ("gridDim", grid)):
        given |= {f"{name}.{axis}": size for axis, size in zip("xyz", sizes, strict=True)}
    return given

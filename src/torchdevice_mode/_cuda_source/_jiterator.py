"""A function of jiterator: the template says what becomes of one number of each tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._evaluate import check, run
from ._lexer import NotTranslatedError
from ._syntax import functions_of

__all__ = ["JitFunction"]


class JitFunction:
    """A translated template.

    Args:
        source: C++; its last function is the one that is called.
        num_outputs: How many results there are.
        by_reference: They are written to the last parameters, and not returned.

    Raises:
        NotTranslatedError: For what has no translation.
    """

    def __init__(self, source: str, num_outputs: int, *, by_reference: bool) -> None:
        functions = functions_of(source)
        if not functions:
            raise NotTranslatedError("it defines no function")
        self._function = functions[-1]
        self._others = {function.name: function for function in functions[:-1]}
        self._outputs = num_outputs if by_reference else 0
        for function in functions:
            check(function, self._others)

    @torch.no_grad()
    def __call__(self, tensors: tuple[Tensor, ...], scalars: tuple[Any, ...]) -> Any:
        """Compute.

        Args:
            tensors: What goes in; they are broadcast and promoted to one type.
            scalars: What follows them.

        Returns:
            A tensor, or a tuple where there are several results.
        """
        dtype = _common_type(tensors)
        half = dtype in (torch.float16, torch.bfloat16)
        computed = torch.float32 if half else dtype
        wide = [t.to(computed) for t in torch.broadcast_tensors(*tensors)]
        arguments = [*wide, *scalars, *([0] * self._outputs)]
        expected = len(self._function.parameters)
        if len(arguments) != expected:
            raise RuntimeError(
                f"{self._function.name} takes {expected} arguments but {len(arguments)} were given."
            )
        returned, variables = run(self._function, arguments, self._others, computed)
        if not self._outputs:
            return _result(returned, wide[0], dtype)
        names = [p.name for p in self._function.parameters[-self._outputs :]]
        results = tuple(_result(variables[name], wide[0], dtype) for name in names)
        return results[0] if len(results) == 1 else results


def _common_type(tensors: tuple[Tensor, ...]) -> torch.dtype:
    """As torch promotes: numbers without dimensions decide only where they are of a higher kind."""
    with_dims = [t.dtype for t in tensors if t.dim()]
    without = [t.dtype for t in tensors if not t.dim()]
    kinds = []
    for group, shape in ((with_dims, (1,)), (without, ())):
        if group:
            kind = group[0]
            for other in group[1:]:
                kind = torch.promote_types(kind, other)
            kinds.append(torch.empty(shape, dtype=kind, device="meta"))
    return torch.result_type(kinds[0], kinds[-1])


def _result(value: Any, like: Tensor, dtype: torch.dtype) -> Tensor:
    if isinstance(value, Tensor):
        return value.to(dtype).expand(like.shape).clone(memory_format=torch.contiguous_format)
    return torch.full(like.shape, value, dtype=dtype, device=like.device)

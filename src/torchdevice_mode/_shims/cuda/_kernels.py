"""Kernels in CUDA's language: jiterator's functions and `_compile_kernel`, by torch's operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.cuda.jiterator import _JittedFunction

from ..._cuda_source import JitFunction, Kernel, NotTranslatedError
from ...errors import UnsupportedByTargetError
from ._surface import emulated, target

__all__: list[str] = []

_REASON = "the source is carried out by torch's operators, where it is simple arithmetic"


def _translated(name: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except NotTranslatedError as error:
        raise UnsupportedByTargetError(
            f"torch.cuda.{name} cannot compile the source for {target()}, because {error}: "
            f"write the function with torch operators."
        ) from None


class _Function(_JittedFunction):
    """A function of jiterator: checks its arguments as torch does."""

    def __init__(self, name: str, source: str, by_reference: bool, outputs: int, **kwargs: Any):
        super().__init__(source, by_reference, outputs, **kwargs)
        self._translation = _translated(
            name, lambda: JitFunction(source, outputs, by_reference=by_reference)
        )

    def __call__(self, *tensors: Tensor, **kwargs: Any) -> Any:
        if len(tensors) > 8:
            raise AssertionError(
                f"jiterator only supports up to 8 tensor inputs, got {len(tensors)}"
            )
        given = dict(self.kwargs_dict)
        for key, value in kwargs.items():
            if key not in given:
                raise KeyError(f"{key} is not declared in function definition")
            given[key] = value
        return self._translation(tensors, tuple(given.values()))


@emulated("jiterator._create_jit_fn", _REASON)
def _create_jit_fn(code_string: str, **kwargs: Any) -> Callable[..., Any]:
    return _Function("jiterator._create_jit_fn", code_string, False, 1, **kwargs)


@emulated("jiterator._create_multi_output_jit_fn", _REASON)
def _create_multi_output_jit_fn(
    code_string: str, num_outputs: int, **kwargs: Any
) -> Callable[..., Any]:
    name = "jiterator._create_multi_output_jit_fn"
    return _Function(name, code_string, True, num_outputs, **kwargs)


class _LaunchedKernel:
    """What `_compile_kernel` gives: launched as a kernel of CUDA is."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._device = torch.device(target())

    def __call__(
        self,
        grid: tuple[int, int, int] = (1, 1, 1),
        block: tuple[int, int, int] = (1, 1, 1),
        args: list[Any] | None = None,
        shared_mem: int = 0,
        stream: Any = None,
    ) -> None:
        given = list(args or ())
        for one in given:
            if isinstance(one, Tensor) and one.device.type != self._device.type:
                raise ValueError("All tensor arguments must be CUDA tensors or pinned CPU tensors")
        self._kernel(grid, block, given, self._device)

    def set_shared_memory_config(self, shared_mem_bytes: int) -> None:
        """Accepted: no kernel that is translated uses shared memory."""


@emulated("_compile_kernel", _REASON)
def _compile_kernel(
    kernel_source: str,
    kernel_name: str,
    compute_capability: str | None = None,
    cuda_include_dirs: list[str] | None = None,
    nvcc_options: list[str] | None = None,
) -> Any:
    make: Callable[[], Kernel] = lambda: Kernel(kernel_source, kernel_name)  # noqa: E731
    return _LaunchedKernel(_translated("_compile_kernel", make))

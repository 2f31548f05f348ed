"""Code that Inductor compiled: it allocates memory where no mode sees it.

torch imports Inductor with the first compilation, so what calls its code is replaced then.

Who asks for CUDA graphs gets none elsewhere: Inductor leaves them out, and says so in a log only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from .._active import current
from .._function_mode import RedirectFunctionMode
from .._log import warn_once
from .._out_of_memory import reports_out_of_memory
from .._patches import Patch, imported

__all__ = ["PATCHES", "without_graphs"]

_MODULE = "torch._inductor.output_code"
_METHOD = "__call__"


def _past_the_mode(original: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled code is called without our mode on the stack, which each of its calls would pay for.

    Devices are decided by then. Where the target may refuse what the CPU can do, the mode stays on.
    """
    call = reports_out_of_memory(original)

    @functools.wraps(original)
    def __call__(self: Any, inputs: Any) -> Any:  # noqa: N807 - it replaces one
        if torch._C._len_torch_function_stack() != 1:
            return call(self, inputs)
        mode = torch._C._get_function_stack_at(0)
        if not isinstance(mode, RedirectFunctionMode) or mode.context.target.type == "mps":
            return call(self, inputs)
        torch._C._pop_torch_function_stack()
        try:
            return call(self, inputs)
        finally:
            torch._C._push_on_torch_function_stack(mode)

    return __call__


def without_graphs(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807 - it replaces one
        context = current()
        if (
            context is not None
            and context.cuda_type.type != "cuda"
            and self.config.get("triton.cudagraphs")
        ):
            warn_once(
                "compile-graphs",
                "torch.compile was asked for CUDA graphs, as mode='reduce-overhead' and "
                f"'max-autotune' do, which {context.cuda_type} has not: the code is compiled "
                "without them, as it is with mode='max-autotune-no-cudagraphs'.",
            )
        return original(self, *args, **kwargs)

    return __call__


PATCHES: dict[str, tuple[Patch, ...]] = {
    _MODULE: (
        Patch(
            imported(_MODULE, "CompiledFxGraph", having=_METHOD),
            _METHOD,
            _past_the_mode,
            "the calls of compiled code are no torch functions, so no mode sees them",
        ),
    ),
}

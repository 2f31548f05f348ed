"""Code that Inductor compiled: it allocates memory where no mode sees it.

torch imports Inductor with the first compilation, so what calls its code is replaced then.
"""

from __future__ import annotations

import sys
from typing import Any

from .._out_of_memory import reports_out_of_memory
from .._patches import Hook, Patch, late

__all__ = ["PATCHES"]

_MODULE = "torch._inductor.output_code"
_METHOD = "__call__"


def _compiled_graph() -> Any:
    """The class of compiled code, if this torch has it and it is called as we know it."""
    found = getattr(sys.modules.get(_MODULE), "CompiledFxGraph", None)
    return found if isinstance(found, type) and _METHOD in vars(found) else None


PATCHES: tuple[Hook, ...] = (
    late(
        _MODULE,
        Patch(
            _compiled_graph,
            _METHOD,
            reports_out_of_memory,
            "the calls of compiled code are no torch functions, so no mode sees them",
        ),
    ),
)

"""Where the program stands that Dynamo traces, as if its frame were on the stack.

Dynamo runs no frames of the program: it reads their code, each with an object of its own that
knows its line and who called it.
"""

from __future__ import annotations

import sys
import types
from typing import Any

__all__ = ["traced_frame"]

_PACKAGE = __name__.partition(".")[0]


class _TracedFrame:
    """A frame that is traced, with what `user_frame` and the ledger ask of one."""

    def __init__(self, translator: Any) -> None:
        self._translator = translator
        self.f_code: types.CodeType = translator.f_code
        self.f_lineno: int = translator.lineno
        # Where a real frame stood could be a place in the code that Dynamo made of it.
        self.f_lasti = -self.f_lineno

    @property
    def f_globals(self) -> dict[str, Any]:
        return self._translator.f_globals

    @property
    def f_back(self) -> _TracedFrame | None:
        caller = getattr(self._translator, "parent", None)
        return None if caller is None else _TracedFrame(caller)


def traced_frame() -> Any:
    """The innermost frame that Dynamo traces now; None where that is not one of this package.

    Then a guard or a made-up tensor asks, and not the program.
    """
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        translator: Any = frame.f_locals.get("self")
        if hasattr(translator, "f_globals") and hasattr(translator, "lineno"):
            name = str(translator.f_globals.get("__name__"))
            return _TracedFrame(translator) if name.partition(".")[0] == _PACKAGE else None
        frame = frame.f_back
    return None

"""CUDA source code of simple kernels, carried out by torch's operators.

A kernel says what one thread does. Here all threads do it at once: a variable holds the values of
all of them in one tensor, an `if` becomes a mask, and memory is read and written by index. That
is exact where threads do not speak with each other; what has no translation is named, with its
line, when the kernel is compiled. `_syntax` reads the source, `_evaluate` carries it out.

Facts: the CUDA C++ Programming Guide, and torch's documentation of jiterator.
"""

from __future__ import annotations

from ._jiterator import JitFunction
from ._kernel import Kernel
from ._lexer import NotTranslatedError

__all__ = ["JitFunction", "Kernel", "NotTranslatedError"]

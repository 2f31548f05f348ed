"""Cuts C++ source code into words."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["NotTranslatedError", "Token", "tokens_of"]


class NotTranslatedError(Exception):
    """Source code has something that torch's operators do not say.

    Args:
        what: The construct, as in the source.
        line: Its line, from 1; 0 where `what` is the whole reason, as a sentence.
    """

    def __init__(self, what: str, line: int = 0) -> None:
        where = f"{what} in line {line} has no counterpart in torch's operators"
        super().__init__(where if line else what)


class Token(NamedTuple):
    """A word of source code.

    Attributes:
        kind: `"number"`, `"name"`, `"operator"` or `"end"`.
        text: The word.
        line: Where it is, from 1.
    """

    kind: str
    text: str
    line: int


_PATTERN = re.compile(
    r"""
    (?P<space>\s+|//[^\n]*|/\*.*?\*/)
  | (?P<include>\#[ \t]*(?:include|pragma)[^\n]*)
  | (?P<directive>\#[ \t]*\w*)
  | (?P<number>0[xX][0-9a-fA-F]+[uUlL]*|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[fFuUlL]*)
  | (?P<name>[A-Za-z_]\w*)
  | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
  | (?P<operator><<=|>>=|<<<|>>>|->|\+\+|--|&&|\|\||==|!=|<=|>=|<<|>>|\+=|-=|\*=|/=|%=|&=|\|=|\^=
      |::|[-+*/%<>=!~&|^?:;,.(){}\[\]])
    """,
    re.VERBOSE | re.DOTALL,
)


def tokens_of(source: str) -> list[Token]:
    """The words of source code; names that `#define` gives a number are replaced by it.

    Args:
        source: C++.

    Returns:
        The words, and one of kind `"end"`.

    Raises:
        NotTranslatedError: For characters and directives without a translation.
    """
    source = _with_constants(source)
    found, position, line = [], 0, 1
    while position < len(source):
        match = _PATTERN.match(source, position)
        if match is None:
            raise NotTranslatedError(repr(source[position]), line)
        kind, text = str(match.lastgroup), match.group()
        if kind == "directive" or (kind == "text" and text != '"C"'):
            raise NotTranslatedError(text, line)
        if kind not in ("space", "include"):
            found.append(Token("name" if kind == "text" else kind, text, line))
        line += text.count("\n")
        position = match.end()
    return [*found, Token("end", "the end", line)]


_DEFINE = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+([^\n]+?)[ \t]*$", re.MULTILINE)


def _with_constants(source: str) -> str:
    for name, value in _DEFINE.findall(source):
        source = _DEFINE.sub("", source, count=1)
        source = re.sub(rf"\b{name}\b", f"({value})".replace("\\", r"\\"), source)
    return source

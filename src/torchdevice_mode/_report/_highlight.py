"""Source lines as HTML, with Python's keywords, strings and comments told apart."""

from __future__ import annotations

import io
import keyword
import tokenize
from collections.abc import Iterator, Sequence
from html import escape

from .._words import printable

__all__ = ["html_lines"]

# What nobody reads in a page: data written into a program.
_LONGEST = 1_000
# What is read for its colours; more takes seconds.
_MOST_LINES = 20_000
_STRINGS = {
    getattr(tokenize, name)
    for name in (
        *("STRING", "FSTRING_START", "FSTRING_MIDDLE", "FSTRING_END"),
        *("TSTRING_START", "TSTRING_MIDDLE", "TSTRING_END"),
    )
    if hasattr(tokenize, name)
}

_Span = tuple[int, int, str]


def html_lines(lines: Sequence[str]) -> list[str]:
    """Lines of a program as HTML.

    Args:
        lines: Without their ends.

    Returns:
        As many lines, escaped; plain where Python cannot read the text.
    """
    spans: dict[int, list[_Span]] = {}
    try:
        if len(lines) > _MOST_LINES:
            raise ValueError("too long to be read")
        for line, start, end, name in _spans(lines):
            spans.setdefault(line, []).append((start, end, name))
    except (tokenize.TokenError, SyntaxError, ValueError):
        spans = {}
    return [_marked(text, spans.get(number, ())) for number, text in enumerate(lines, 1)]


def _spans(lines: Sequence[str]) -> Iterator[tuple[int, int, int, str]]:
    """Line, first and last column, and class of what is told apart."""
    text = "\n".join(lines) + "\n"
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        name = _class_of(token)
        if not name:
            continue
        (first, start), (last, end) = token.start, token.end
        for line in range(first, last + 1):
            width = len(lines[line - 1]) if line <= len(lines) else 0
            yield line, start if line == first else 0, end if line == last else width, name


def _class_of(token: tokenize.TokenInfo) -> str:
    if token.type == tokenize.COMMENT:
        return "c"
    if token.type in _STRINGS:
        return "s"
    if token.type == tokenize.NUMBER:
        return "n"
    return "k" if token.type == tokenize.NAME and keyword.iskeyword(token.string) else ""


def _marked(text: str, spans: Sequence[_Span]) -> str:
    shown = text[:_LONGEST]
    parts = []
    position = 0
    for start, end, name in spans:
        if start < position or start >= len(shown):
            continue
        parts.append(_plain(shown[position:start]))
        parts.append(f'<span class="{name}">{_plain(shown[start:end])}</span>')
        position = end
    parts.append(_plain(shown[position:]))
    left = len(text) - len(shown)
    if left:
        parts.append(f'<span class="cut"> … {left:,} more characters</span>')
    return "".join(parts)


def _plain(text: str) -> str:
    return escape(printable(text), quote=False)

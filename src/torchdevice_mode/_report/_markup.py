"""Pieces of HTML; whatever they are given as text is escaped here, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .._kinds import kind_of
from .._words import printable

__all__ = ["badge", "bar", "code", "link", "table", "text"]


def text(value: object) -> str:
    """Text, for content and for attributes."""
    return escape(printable(str(value)))


def code(value: object) -> str:
    """Text as code."""
    return f"<code>{text(value)}</code>"


def link(target: str, words: str) -> str:
    """A link within the page."""
    return f'<a href="#{text(target)}">{text(words)}</a>'


def badge(kind: str) -> str:
    """The name of a kind of event, in its colour."""
    return f'<span class="badge k-{text(kind)}">{text(kind_of(kind).one)}</span>'


def bar(share: float) -> str:
    """A share between 0 and 1, for the eye; figures stand beside it."""
    inner = f'<span style="width:{100 * share:.1f}%"></span>'
    return f'<span class="bar" aria-hidden="true">{inner}</span>'


def table(
    caption: str,
    head: Sequence[tuple[str, str]],
    rows: Sequence[Sequence[str]],
    *,
    name: str = "",
) -> str:
    """A table; where it is too wide, it scrolls on its own.

    Args:
        caption: As text.
        head: Name and class of each column.
        rows: Cells as HTML.
        name: Its class.
    """
    classes = [f' class="{name}"' if name else "" for _, name in head]
    heads = "".join(
        f'<th scope="col"{given}>{text(name)}</th>'
        for (name, _), given in zip(head, classes, strict=True)
    )
    body = "\n".join(
        "<tr>"
        + "".join(f"<td{given}>{cell}</td>" for cell, given in zip(row, classes, strict=True))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}">\n'
        f'<table class="{text(name or "plain")}">\n'
        f"<caption>{text(caption)}</caption>\n<thead><tr>{heads}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )

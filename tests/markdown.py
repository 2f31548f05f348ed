"""Reads the project's Markdown pages: their blocks of code, headings and links.

A comment above a block tells how it is tested. A reader of the page does not see it.

    <!-- not run: REASON -->          the block is only compiled, or parsed
    <!-- raises: ERROR -->            the block ends with this error
    <!-- own process -->              the Python of this page runs in a process of its own
    <!-- pytest: OPTIONS -->          the block is a file of tests
    <!-- first: CODE -->              what the block needs and does not show
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
KINDS = ("not run", "raises", "own process", "pytest", "first")

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*)$")
_COMMENT = re.compile(r"<!--\s*(?P<kind>[a-z ]+?)(?::\s*(?P<text>.*?))?\s*-->\s*$", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page: The file it is in.
        line: The number of its first line of code.
        language: What the fence says.
        code: What is in it.
        told: The comments above it, by kind.
    """

    page: Path
    line: int
    language: str
    code: str
    told: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def shown_at_its_line(self) -> str:
        """The code below empty lines, so that errors name the line of the page."""
        return "\n" * (self.line - 1) + self.code


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    found: list[Block] = []
    lines = page.read_text().splitlines()
    start = 0
    while start < len(lines):
        fence = _FENCE.match(lines[start])
        if fence is None:
            start += 1
            continue
        end = start + 1
        while lines[end].strip() != "```":
            end += 1
        cut = len(fence["indent"])
        code = "\n".join(line[cut:] for line in lines[start + 1 : end]) + "\n"
        told = _told("\n".join(lines[:start]))
        found.append(Block(page, start + 2, fence["language"], code, told))
        start = end + 1
    return found


def _told(above: str) -> dict[str, str]:
    """The comments at the end of what is above a block."""
    told: dict[str, str] = {}
    above = above.rstrip()
    while above.endswith("-->"):
        start = above.rindex("<!--")
        comment = _COMMENT.fullmatch(above[start:])
        if comment is None or comment["kind"] not in KINDS:
            break
        told[comment["kind"]] = comment["text"] or ""
        above = above[:start].rstrip()
    return told


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page can say behind its `#`."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in plain}


def links(page: Path) -> list[str]:
    """Where the links and pictures of a page lead, inside the project."""
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    found = re.findall(r"\]\(([^)\s]+)\)|\b(?:src|srcset|href)=\"([^\"]+)\"", text)
    return [a or b for a, b in found if not re.match(r"[a-z]+:", a or b)]

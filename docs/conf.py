"""How Sphinx builds these pages: `nox -s docs`. They read as they are, too, where the code is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parents[1] / "src" / "torchdevice_mode" / "__init__.py"

project = "torchdevice"
author = "The torchdevice developers"
project_copyright = author
version = release = re.findall(r'^__version__ = "(.+)"', _PACKAGE.read_text(), re.MULTILINE)[0]

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
# A reference to what does not exist is a warning, and warnings end the build.
nitpicky = True
# Options in running text keep their two hyphens.
smartquotes = False
myst_heading_anchors = 3

html_theme = "furo"
html_title = "torchdevice"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_show_sphinx = False
html_show_copyright = False
# Pages need nothing from elsewhere: no fonts, no scripts, no badges.
html_theme_options = {"footer_icons": []}
pygments_style = "friendly"
pygments_dark_style = "monokai"


def _add_menu(app: Any, name: str, source: list[str]) -> None:
    """Make the menu at the side of what the index lists, so that no page is named twice."""
    if name != "index":
        return
    for part in source[0].split("\n## ")[1:]:
        caption, _, text = part.partition("\n")
        pages = re.findall(r"^- \[[^]]+\]\(([a-z0-9-]+)\.md\)", text, re.MULTILINE)
        listed = "\n".join(pages)
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{listed}\n```\n"


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", _add_menu)
    return {"parallel_read_safe": True}

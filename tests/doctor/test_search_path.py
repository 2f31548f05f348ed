"""Which folders a program adds to its search path, from its text."""

from __future__ import annotations

import ast

import pytest

from torchdevice_mode._doctor._search_path import added_folders

IMPORTS = "import os, sys\nfrom pathlib import Path\n"


@pytest.mark.parametrize(
    ("text", "folders"),
    [
        ("sys.path.append('core')", [("core", False)]),
        ("sys.path.insert(0, './lib/')", [("lib", False)]),
        ("sys.path.extend(['a', 'b'])", [("a", False), ("b", False)]),
        ("sys.path.append(os.getcwd())", [(".", False)]),
        ("sys.path.append('/opt/x')", [("/opt/x", False)]),
        ("sys.path.append(os.path.dirname(__file__))", [(".", True)]),
        (
            "sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))",
            [("..", True)],
        ),
        (
            "sys.path.append(os.path.join(os.path.dirname(__file__), '..', 'lib'))",
            [("../lib", True)],
        ),
        ("sys.path.append(os.path.dirname(__file__) + '/lib')", [("lib", True)]),
        (
            "here = Path(__file__).resolve().parent\nsys.path.append(str(here / 'lib'))",
            [("lib", True)],
        ),
        ("sys.path.append(str(Path(__file__).parents[1].joinpath('lib')))", [("../lib", True)]),
        # what cannot be told
        ("sys.path.append(args.folder)", []),
        ("sys.path.append(os.path.join(root, 'lib'))", []),
        ("here = here + '/x'\nsys.path.append(here)", []),
        ("sys.path.append(os.environ['X'])", []),
        ("sys.path.append()\nsys.path.append(1)\nPath('x').parents[i]", []),
        ("parts.append('core')", []),
    ],
)
def test_folders_added_to_the_search_path_are_read_from_the_text(text, folders):
    assert added_folders(ast.parse(IMPORTS + text)) == folders

"""Settings in `pyproject.toml`: the table `[tool.torchdevice]`, which commands read.

The file is looked for in the program's folder, the one that Python puts first on its path, and
then in the folders above, up to the root of its repository. The first that has the table counts,
so that a program behaves the same from wherever it is started.
"""

from __future__ import annotations

import os
import re
import sys
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from ._settings import SETTINGS, Setting, Source
from ._values import list_of_words
from .errors import SettingsError

__all__ = ["NAME", "Table", "find"]

NAME = "pyproject.toml"
_REPOSITORY = (".git", ".hg")
_HEADER = r"\s*\[\s*tool\s*\.\s*([\"']?)torchdevice\1\s*\]"


class Table(Source):
    """The settings of one file.

    Args:
        path: The file.
        text: What it says.
        values: The table, parsed.

    Raises:
        SettingsError: If a key is none.
    """

    def __init__(self, path: Path, text: str, values: dict[str, Any]) -> None:
        self.path = path
        self._text = text
        keys = {row.key: row for row in SETTINGS}
        self._values: dict[str, object] = {}
        for key, value in values.items():
            row = keys.get(key.replace("_", "-"))
            if row is None:
                near = get_close_matches(key.replace("_", "-"), keys, n=1)
                wanted = f"did you mean {near[0]!r}?" if near else f"give {', '.join(keys)}."
                raise SettingsError(f"{self._at(key)}: {key!r} is not a setting: {wanted}")
            if row.name in self._values:
                raise SettingsError(
                    f"{self._at(key)}: {key!r} is given twice, with a hyphen and with an "
                    f"underscore: leave one out."
                )
            self._values[row.name] = value

    def value(self, row: Setting) -> object:
        value = self._values.get(row.name)
        if row.of_files and isinstance(value, (str, list)) and all(map(_is_text, value)):
            return ",".join(str(self.path.parent / word) for word in list_of_words(value))
        return value

    def place(self, row: Setting, value: object) -> str:
        # As it stands in the file: that of files was made absolute.
        return f"{self._at(row.key)}: {row.key} = {self._values[row.name]!r}"

    def origin(self, row: Setting) -> str:
        return self._at(row.key)

    def _at(self, key: str) -> str:
        """The file, and the key's line where it is found: TOML readers tell no lines."""
        line = _line(self._text, key) or _line(self._text, key.replace("-", "_"))
        return shown(self.path) + (f":{line}" if line else "")


def shown(path: Path) -> str:
    """A path as one would type it here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (OSError, ValueError):
        return str(path)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _line(text: str, key: str) -> int:
    inside = False
    for number, line in enumerate(text.splitlines(), start=1):
        if re.match(r"\s*\[", line):
            inside = re.match(_HEADER, line) is not None
        elif inside and re.match(rf"\s*([\"']?){re.escape(key)}\1\s*=", line):
            return number
    return 0


def find(folder: Path) -> Table | None:
    """The settings that hold for programs in a folder.

    Args:
        folder: Where to begin; its file, then those of the folders above.

    Returns:
        The nearest table; None where there is none.

    Raises:
        SettingsError: If a file that has the table cannot be read, or a key of it is none.
    """
    for place in (folder, *folder.parents):
        table = _read(place / NAME)
        # `Path.exists` raises where the folder may not be read.
        is_root = any(os.path.exists(place / name) for name in _REPOSITORY)  # noqa: PTH110
        if table is not None or is_root:
            return table
    return None


def _read(path: Path) -> Table | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None  # most often there is none; nor is an unreadable one of use to others
    # What has no word of ours need not be right, nor be parsed.
    if b"torchdevice" not in content:
        return None
    try:
        text = content.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingsError(
            f"{shown(path)}:{line} is not UTF-8, as TOML has to be: save the file as UTF-8."
        ) from None
    toml = _parser()
    if toml is None:
        if not re.search(f"(?m)^{_HEADER}", text):
            return None
        version = ".".join(map(str, sys.version_info[:2]))
        raise SettingsError(
            f"{shown(path)} has settings of torchdevice, which Python {version} cannot read: "
            f"install tomli, or give them as options or environment variables."
        )
    try:
        tools = toml.loads(text).get("tool", {})
    except toml.TOMLDecodeError as error:
        raise SettingsError(f"{shown(path)} is not TOML: {error}.") from None
    values = tools.get("torchdevice") if isinstance(tools, dict) else None
    if values is None:
        return None
    if not isinstance(values, dict):
        raise SettingsError(f"{shown(path)}: torchdevice = {values!r} is not a table of settings.")
    return Table(path, text, values)


def _parser() -> Any:
    """What reads TOML: Python's own from 3.11 on, before that `tomli` where it is installed."""
    for name in ("tomllib", "tomli"):
        try:
            return import_module(name)
        except ModuleNotFoundError:
            continue
    return None

"""Settings of a command: its options, the environment, `pyproject.toml`, and the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ._pyproject import find
from ._settings import (
    OF_REDIRECTION,
    OF_RUN,
    SETTINGS,
    Environment,
    Found,
    Options,
    RunSettings,
    Settings,
    Source,
    gather,
)

__all__ = ["Chosen", "choose"]


class Chosen(NamedTuple):
    """What holds for a command.

    Attributes:
        redirection: The settings of the redirection.
        run: Those of the program that is run.
        found: All of them by name, and where each was given.
    """

    redirection: Settings
    run: RunSettings
    found: Mapping[str, Found]


def choose(
    options: Mapping[str, object], environ: Mapping[str, str], folder: Path | None
) -> Chosen:
    """Read the settings of a command.

    Args:
        options: Its options by the setting's name; None for one that was not given.
        environ: The environment variables.
        folder: Where to look for `pyproject.toml`; None for nowhere.

    Returns:
        What holds.

    Raises:
        SettingsError: If a value is not one the setting can have, or the file cannot be read.
    """
    sources: list[Source] = [Options(options), Environment(environ)]
    table = None if folder is None else find(folder)
    if table is not None:
        sources.append(table)
    found = gather(SETTINGS, sources)
    return Chosen(
        Settings(**{row.name: found[row.name].value for row in OF_REDIRECTION}),
        RunSettings(**{row.name: found[row.name].value for row in OF_RUN}),
        found,
    )

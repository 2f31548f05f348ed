"""Settings of a command: its options, the environment, `pyproject.toml`, and the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from ._log import tell
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
from ._variables import FOLDER
from .errors import TorchDeviceError

__all__ = ["Chosen", "choose", "with_place"]

_PREFIX = "TORCHDEVICE_"
# These are no settings.
_OTHERS = (FOLDER, "TORCHDEVICE_CACHE")


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
    _warn_of_misspelt(environ)
    return Chosen(
        Settings(**{row.name: found[row.name].value for row in OF_REDIRECTION}),
        RunSettings(**{row.name: found[row.name].value for row in OF_RUN}),
        found,
    )


def with_place(error: TorchDeviceError, found: Mapping[str, Found]) -> str:
    """The error's sentence, beginning with the place where the bad value was given.

    Args:
        error: As it was raised, by what knows torch, and of no places.
        found: What `choose` found.

    Returns:
        One sentence.
    """
    sentence = str(error)
    for name, setting in found.items():
        plain = f"{name}={setting.value!r}"
        if setting.place and sentence.startswith(f"{plain} "):
            return setting.place + sentence[len(plain) :]
    return sentence


def _warn_of_misspelt(environ: Mapping[str, str]) -> None:
    """A variable with a slip in its name would silently do nothing."""
    known = {row.variable for row in SETTINGS} | set(_OTHERS)
    names = [name.removeprefix(_PREFIX) for name in known if name.startswith(_PREFIX)]
    for name in environ:
        if name.startswith(_PREFIX) and name not in known:
            near = get_close_matches(name.removeprefix(_PREFIX), names, n=1, cutoff=0.75)
            if near:
                sentence = f"{name} is no variable of torchdevice: did you mean {_PREFIX}{near[0]}?"
                tell("unknown-variable", sentence)

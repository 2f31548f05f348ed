"""Reads values of settings, from text or from TOML, and says of a bad one what to give instead.

A reader takes what was given and returns the setting's value. It raises `NotAValueError` with the
end of a sentence, whose beginning names the place where the value stands.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from ._packages import SUBSTITUTES
from ._report_path import fault_of
from ._spec import ABSENT, NOT_A_DEVICE, TOGGLE, parse
from ._variables import FALSE, TRUE

__all__ = [
    "Reader",
    "NotAValueError",
    "boolean",
    "device",
    "list_of_words",
    "list_of_reports",
    "list_of_substitutes",
    "one_of",
    "share_or_operator",
]

Reader = Callable[[object], object]


class NotAValueError(Exception):
    """A value is not one that the setting can have."""


def one_of(*choices: str) -> Reader:
    """A reader of one word among these, in any case of letters."""
    by_lower = {choice.lower(): choice for choice in choices}
    listed = " or ".join((", ".join(map(repr, choices[:-1])), repr(choices[-1])))

    def read(value: object) -> str:
        found = by_lower.get(value.lower()) if isinstance(value, str) else None
        if found is None:
            raise NotAValueError(f"is not a value that it can have: give {listed}.")
        return found

    return read


def boolean(value: object) -> bool:
    """Read true or false, or a word for it."""
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in TRUE or text in FALSE:
        return text in TRUE
    raise NotAValueError("is neither true nor false: give true or false.")


def device(value: object) -> str:
    """Read a device that exists, or may exist, on some machine."""
    spec = parse(value)
    if spec in (ABSENT, NOT_A_DEVICE, TOGGLE) or spec.type == "meta":
        raise NotAValueError('is not a device: give one such as "mps", "cuda:0" or "cpu".')
    return str(spec)


_OPERATOR = r"(aten::)?[a-zA-Z_]\w*"


def share_or_operator(value: object) -> str | None:
    """Read a share between 0 and 1, as text, or the name of an operator; None for no share."""
    text = "none" if isinstance(value, bool) else str(value).strip()
    try:
        share = float(text)
    except ValueError:
        if not isinstance(value, bool) and re.fullmatch(_OPERATOR, text):
            return text
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise NotAValueError(
            "is neither a share nor an operator: give a number from 0 to 1, or a name such as "
            '"aten::mm".'
        )
    return text if share else None


def list_of_words(value: object) -> tuple[str, ...]:
    """Read words: a list of them, or text that has commas between."""
    parts = list(value) if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(part, str) for part in parts):
        raise NotAValueError("is not a list of words: give them as text, with commas between.")
    words = (word.strip() for part in parts for word in str(part).split(","))
    return tuple(dict.fromkeys(word for word in words if word))


def list_of_reports(value: object) -> tuple[str, ...]:
    """Read files to write a report to; they are absolute then, as programs change folders."""
    found = []
    # Of text without a word: `--report "$FILE"`, and there is no such variable.
    for word in list_of_words(value) or ("",) * isinstance(value, str):
        # Not `resolve`, which follows links.
        path = Path(os.path.abspath(word))  # noqa: PTH100
        fault = fault_of(path)
        if fault:
            raise NotAValueError(fault if word == value else f"names {word!r}, which {fault}")
        found.append(str(path))
    return tuple(dict.fromkeys(found))


def list_of_substitutes(value: object) -> tuple[str, ...]:
    """Read packages for which there are substitutes, by import name or as they are installed."""
    names = tuple(dict.fromkeys(word.replace("-", "_") for word in list_of_words(value)))
    for name in names:
        if name not in SUBSTITUTES:
            raise NotAValueError(
                f"names {name!r}, for which there is no substitute: give {', '.join(SUBSTITUTES)}."
            )
    return names

"""What the command `torchdevice` says where it is not called as it can be: one sentence each."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

__all__ = ["Parser", "no_command", "no_program", "unknown_words"]


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, without the usage, and end with code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"torchdevice: error: {_sentence(message, self.prog)}\n")


def _sentence(message: str, prog: str) -> str:
    """What argparse complains of, and what to do."""
    about, _, complaint = message.partition(": ")
    flag = about.removeprefix("argument ").partition("/")[0]
    if re.match(r"expected .*argument", complaint):
        return f"{flag} needs a value: see {prog} --help."
    if complaint.startswith("ignored explicit argument"):
        return f"{flag} takes no value: see {prog} --help."
    choice = re.match(r"invalid choice: (.+) \(choose from (.+)\)", complaint)
    if choice:
        return f"{flag} {choice[1]} is not a value that it can have: give {choice[2]}."
    if about == "the following arguments are required":
        return f"{complaint} is missing: see {prog} --help."
    if message.endswith((".", "?")):
        return message
    return f"{message}: see {prog} --help."


def no_command(word: str, commands: Sequence[str]) -> str:
    """The first word is none of the commands.

    Args:
        word: That word; empty where there is none.
        commands: Those there are.

    Returns:
        One sentence.
    """
    listed = ", ".join(commands)
    if not word:
        return f"a command is missing: give {listed}, or --help."
    if word.startswith("-"):
        return f"{word} stands before the command: begin with {listed}, or --help."
    if word.endswith(".py") or Path(word).is_file():
        return f"{word!r} is not a command: did you mean torchdevice run {word}?"
    if word in ("help", "version"):
        return f"{word!r} is not a command: did you mean --{word}?"
    near = get_close_matches(word, commands, n=1)
    return f"{word!r} is not a command: " + (
        f"did you mean {near[0]}?" if near else f"give {listed}."
    )


def no_program(given: Sequence[str]) -> str:
    """A command that runs a program is given none.

    Args:
        given: What it was given, the command first.

    Returns:
        One sentence.
    """
    last, before = ["", *given][-1], ["", "", *given][-2]
    sentence = "a program is missing: give script.py, -m module, -c code or -"
    if last in ("-m", "-c"):
        what = {"-m": "a module's name", "-c": "code"}[last]
        return f"{last} needs {what} after it."
    if before.startswith("--") and (last.endswith(".py") or Path(last).is_file()):
        return f"{sentence} ({last!r} was taken for the value of {before})."
    return f"{sentence}."


def unknown_words(words: Sequence[str], command: str, options: Iterable[str], program: bool) -> str:
    """Words that a command does not take.

    Args:
        words: These.
        command: Its name.
        options: Its options.
        program: Whether a program follows, which has options of its own.

    Returns:
        One sentence about the first.
    """
    flag, _, _ = words[0].partition("=")
    if not flag.startswith("-"):
        return f"{command} takes no {words[0]!r}: see torchdevice {command} --help."
    # Without the hyphens, which would make any two of them alike.
    near = get_close_matches(flag.strip("-"), [name.strip("-") for name in options], n=1)
    if near:
        return f"{command} has no option {flag}: did you mean --{near[0]}?"
    if program:
        return f"{command} has no option {flag}: options of the program come after its name."
    return f"{command} has no option {flag}: see torchdevice {command} --help."

"""Settings: one row for each, which can be an argument, an option, a variable or a key.

`SETTINGS` is the table. The options of `torchdevice run` and `info`, the environment of processes
that are started, the keys of `[tool.torchdevice]` and the table of docs/settings.md follow from
it. To add a setting, add a field to one of the two records, and its row.

The order of precedence is: argument or option, environment variable, `pyproject.toml` (which only
commands read), default. An error names the place of a bad value, because a variable set in a
shell profile is hard to find.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ._values import (
    NotAValueError,
    Reader,
    boolean,
    device,
    list_of_reports,
    list_of_substitutes,
    list_of_words,
    one_of,
    share_or_operator,
)
from ._variables import SIMULATE
from .errors import SettingsError

__all__ = [
    "DEFAULTS",
    "ENVIRONMENT",
    "LOG_LEVEL",
    "OF_REDIRECTION",
    "OF_RUN",
    "REPORT",
    "SETTINGS",
    "SILENCE",
    "Arguments",
    "Environment",
    "Found",
    "Options",
    "RunSettings",
    "Setting",
    "Settings",
    "Source",
    "as_text",
    "gather",
]


class Settings(NamedTuple):
    """What the user chose for a redirection.

    Attributes:
        target: Device that requests are redirected to (`"mps"`, `"cuda:1"`, `"cpu"`), or None
            for the machine's first: MPS, CUDA, another accelerator, the CPU.
        policy: `"force"` also moves requests for the CPU, and requests without a device, to the
            target. `"explicit"` moves only requests for an accelerator that is not there.
        override: What the CPU override holds on the CPU: requests for the `"cpu"` and without a
            device, or `"everything"`.
        dispatch: `"auto"` enters the dispatch mode only around calls that the function mode
            cannot see into; `"always"` keeps it on, at several microseconds an operator.
        float64: What happens to float64 and complex128 on a target without them:
            `"downcast"`, keep on the `"cpu"`, or `"error"`.
        verify: Share of operator calls, as text between `"0"` and `"1"`, that are repeated on the
            CPU and compared; or the name of an operator all of whose calls are. None for none.
        verify_raise: Raise `VerificationError` where they differ, instead of a warning.
        rng: Where random numbers are drawn: on the `"target"`, or on the `"cpu"` and moved, so
            that they are those of a run on the CPU.
        profile: Time every operator, and wait for the target after each.
        substitutes: Packages for which substitutes built on torch's operators stand in.
        allow_untested: Redirect on platforms and torch versions never tested with.
    """

    target: str | None = None
    policy: str = "force"
    override: str = "cpu"
    dispatch: str = "auto"
    float64: str = "downcast"
    verify: str | None = None
    verify_raise: bool = False
    rng: str = "target"
    profile: bool = False
    substitutes: tuple[str, ...] = ()
    allow_untested: bool = False

    @classmethod
    def load(cls, environ: Mapping[str, str], /, **arguments: Any) -> Settings:
        """Merge arguments (None means not given) over the environment over the defaults.

        Args:
            environ: The environment variables.
            **arguments: Values by setting name.

        Returns:
            The checked settings.

        Raises:
            TypeError: If an argument is no setting.
            SettingsError: If a value is not one the setting can have.
        """
        names = [row.name for row in OF_REDIRECTION]
        for name in arguments:
            if name not in names:
                raise TypeError(f"{name!r} is no setting of redirection: give {', '.join(names)}.")
        found = gather(OF_REDIRECTION, [Arguments(arguments), Environment(environ)])
        return cls(**{name: one.value for name, one in found.items()})

    def to_environment(self) -> dict[str, str]:
        """The variables that give a child process these settings."""
        return as_text(OF_REDIRECTION, self._asdict())


class RunSettings(NamedTuple):
    """What the user chose for a program that `torchdevice run` runs.

    Attributes:
        simulate: Device to simulate on the CPU, or None.
        log_level: What is logged.
        silence: Slugs of warnings that are not said.
        report: Files to write the report to, by their absolute paths.
        quiet: Print no summary at exit.
    """

    simulate: str | None = None
    log_level: str = "WARNING"
    silence: tuple[str, ...] = ()
    report: tuple[str, ...] = ()
    quiet: bool = False


class Setting(NamedTuple):
    """One setting, in all the forms that it can be given.

    Attributes:
        name: The argument, and the record's field.
        variable: The environment variable; an empty one counts as absent.
        read: Reads a value, or raises `NotAValueError`.
        values: What it can be, for the documentation.
        help: What it does, for `--help` and the documentation.
        metavar: What stands for the value in `--help`; empty for a switch.
        option: The option, where it is not the name with hyphens.
        repeats: The option may be given several times, and each adds to the list.
        told: Whether processes that the program starts are told.
        of_files: The values are files; those in `pyproject.toml` are beside it.
    """

    name: str
    variable: str
    read: Reader
    values: str
    help: str
    metavar: str = ""
    option: str = ""
    repeats: bool = False
    told: bool = True
    of_files: bool = False

    @property
    def key(self) -> str:
        """The key in `[tool.torchdevice]`."""
        return self.name.replace("_", "-")

    @property
    def flag(self) -> str:
        """The option of `torchdevice run` and `torchdevice info`."""
        return self.option or f"--{self.key}"


OF_REDIRECTION: tuple[Setting, ...] = (
    Setting(
        "target",
        "TORCHDEVICE_TARGET",
        device,
        "a device of this machine",
        'where requests go, such as "mps", "cuda:1" or "cpu"; by default the accelerator that the '
        "machine has",
        "DEVICE",
    ),
    Setting(
        "policy",
        "TORCHDEVICE_POLICY",
        one_of("force", "explicit"),
        "`force`, `explicit`",
        '"force" (default) also moves requests for the CPU and for no device; "explicit" moves '
        "only requests for an accelerator that is not there",
        "POLICY",
    ),
    Setting(
        "override",
        "TORCHDEVICE_OVERRIDE",
        one_of("cpu", "everything"),
        "`cpu`, `everything`",
        'what the CPU override holds: "cpu" (default) or "everything"',
        "WHAT",
    ),
    Setting(
        "dispatch",
        "TORCHDEVICE_DISPATCH",
        one_of("auto", "always"),
        "`auto`, `always`",
        '"auto" (default), or "always" to see every request that C++ code makes',
        "WHEN",
    ),
    Setting(
        "float64",
        "TORCHDEVICE_FLOAT64",
        one_of("downcast", "cpu", "error"),
        "`downcast`, `cpu`, `error`",
        'on a target without float64: "downcast" (default), "cpu" or "error"',
        "HOW",
    ),
    Setting(
        "verify",
        "TORCHDEVICE_VERIFY",
        share_or_operator,
        "a number from 0 to 1, or an operator",
        "repeat this share of operator calls (0.01), or all of one operator (mm), on the CPU, and "
        "report what differs",
        "SHARE",
    ),
    Setting(
        "verify_raise",
        "TORCHDEVICE_VERIFY_RAISE",
        boolean,
        "true, false",
        "end the program where they differ",
    ),
    Setting(
        "rng",
        "TORCHDEVICE_RNG",
        one_of("target", "cpu"),
        "`target`, `cpu`",
        'where random numbers are drawn: "target" (default), or "cpu" for those of a run on the '
        "CPU",
        "WHERE",
    ),
    Setting(
        "profile",
        "TORCHDEVICE_PROFILE",
        boolean,
        "true, false",
        "time every operator, fallbacks and copies apart, and print a table at the end; slow",
    ),
    Setting(
        "substitutes",
        "TORCHDEVICE_SUBSTITUTES",
        list_of_substitutes,
        "packages of [substitutes](substitutes.md)",
        "let a substitute stand in for a package that needs CUDA, such as flash_attn; may be "
        "repeated",
        "PACKAGE",
        option="--substitute",
        repeats=True,
    ),
    Setting(
        "allow_untested",
        "TORCH_ALLOW_REDIRECTS",
        boolean,
        "true, false",
        "redirect on platforms and torch versions that torchdevice was never tested with, too",
    ),
)
"""Settings of a redirection, also arguments of `redirect()` and `enable()`."""

LOG_LEVEL = Setting(
    "log_level",
    "TORCHDEVICE_LOG_LEVEL",
    one_of("DEBUG", "INFO", "WARNING", "ERROR"),
    "`DEBUG`, `INFO`, `WARNING`, `ERROR`",
    "what is logged: DEBUG, INFO (each line that is redirected), WARNING (default) or ERROR",
    "LEVEL",
)
SILENCE = Setting(
    "silence",
    "TORCHDEVICE_SILENCE",
    list_of_words,
    "slugs of [messages](messages.md)",
    "do not say the warnings with these slugs, which stand in brackets at their ends",
    "SLUG,...",
    repeats=True,
)
REPORT = Setting(
    "report",
    "TORCHDEVICE_REPORT",
    list_of_reports,
    "files that end in `.html`, `.json` or `.txt`",
    "at the end, write what happened, by source line, to FILE: a page (.html), data (.json) or "
    "text (.txt); may be repeated",
    "FILE",
    repeats=True,
    # Of all processes, the outermost writes.
    told=False,
    of_files=True,
)
OF_RUN: tuple[Setting, ...] = (
    Setting(
        "simulate",
        SIMULATE,
        one_of("mps", "cuda"),
        "`mps`, `cuda`",
        'simulate this device ("mps" or "cuda") on the CPU',
        "DEVICE",
    ),
    LOG_LEVEL,
    SILENCE,
    REPORT,
    Setting("quiet", "TORCHDEVICE_QUIET", boolean, "true, false", "print no summary at the end"),
)
"""Further settings of a program that `torchdevice run` runs."""

SETTINGS = (*OF_REDIRECTION, *OF_RUN)
"""All of them."""

DEFAULTS: dict[str, Any] = {**Settings()._asdict(), **RunSettings()._asdict()}
"""Setting to its value where none is given."""

ENVIRONMENT: dict[str, str] = {row.name: row.variable for row in OF_REDIRECTION}
"""Setting of a redirection to environment variable."""


# --- where values come from --------------------------------------------------------------------


class Source:
    """Gives values of settings, and says how to name the place of one."""

    def value(self, row: Setting) -> object:
        """The value as it was given; None where it was not."""
        raise NotImplementedError

    def place(self, row: Setting, value: object) -> str:
        """The value and its place, as an error's sentence begins."""
        raise NotImplementedError

    def origin(self, row: Setting) -> str:
        """Where the value stands, as `torchdevice info` shows it."""
        raise NotImplementedError


class Arguments(Source):
    """Arguments of a function, by name of the setting."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def value(self, row: Setting) -> object:
        return self._values.get(row.name)

    def place(self, row: Setting, value: object) -> str:
        return f"{row.name}={value!r}"

    def origin(self, row: Setting) -> str:
        return "argument"


class Options(Arguments):
    """Options of a command, by name of the setting."""

    def value(self, row: Setting) -> object:
        value = super().value(row)
        # One that may be repeated, and was not.
        once = row.repeats and isinstance(value, list) and len(value) == 1
        return value[0] if once else value  # type: ignore[index]

    def place(self, row: Setting, value: object) -> str:
        return f"{row.flag} {value!r}"

    def origin(self, row: Setting) -> str:
        return f"option {row.flag}"


class Environment(Source):
    """Environment variables."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def value(self, row: Setting) -> object:
        return self._environ.get(row.variable) or None

    def place(self, row: Setting, value: object) -> str:
        return f"{row.variable}={value!r}"

    def origin(self, row: Setting) -> str:
        return f"environment variable {row.variable}"


class Found(NamedTuple):
    """A setting's value, and where it was given.

    Attributes:
        value: The value.
        origin: Its place, as `torchdevice info` shows it.
        place: The value and its place, as an error's sentence begins; empty for a default.
    """

    value: Any
    origin: str
    place: str = ""


def gather(rows: Iterable[Setting], sources: Sequence[Source]) -> dict[str, Found]:
    """The value of each setting.

    Args:
        rows: Which settings.
        sources: Where to look; the first that gives a value decides.

    Returns:
        What was found, by the setting's name.

    Raises:
        SettingsError: If a value that decides is not one the setting can have.
    """
    return {row.name: _find(row, sources) for row in rows}


def _find(row: Setting, sources: Sequence[Source]) -> Found:
    for source in sources:
        given = source.value(row)
        if given is None:
            continue
        try:
            return Found(row.read(given), source.origin(row), source.place(row, given))
        except NotAValueError as refusal:
            raise SettingsError(f"{source.place(row, given)} {refusal}") from None
    return Found(DEFAULTS[row.name], "default")


def as_text(rows: Iterable[Setting], values: Mapping[str, Any]) -> dict[str, str]:
    """Settings as environment variables, without those that are off or empty.

    Args:
        rows: Which settings.
        values: Their values by name.

    Returns:
        Text by variable.
    """
    found = {}
    for row in rows:
        value = values[row.name]
        if isinstance(value, tuple):
            value = ",".join(value)
        if value not in (None, False, ""):
            found[row.variable] = "true" if value is True else str(value)
    return found

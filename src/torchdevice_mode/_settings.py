"""Settings: one frozen record, read from arguments and from the environment.

The order of precedence is: argument, environment variable, default. A bad value is an error
that names where it came from, because a variable set in a shell profile is hard to find.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ._spec import ABSENT, NOT_A_DEVICE, TOGGLE, parse
from .errors import SettingsError

__all__ = ["ENVIRONMENT", "Settings"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "policy": ("force", "explicit"),
    "override": ("cpu", "everything"),
    "dispatch": ("auto", "always"),
    "float64": ("downcast", "cpu", "error"),
    "rng": ("target", "cpu"),
}

ENVIRONMENT: dict[str, str] = {
    "target": "TORCHDEVICE_TARGET",
    "policy": "TORCHDEVICE_POLICY",
    "override": "TORCHDEVICE_OVERRIDE",
    "dispatch": "TORCHDEVICE_DISPATCH",
    "float64": "TORCHDEVICE_FLOAT64",
    "verify": "TORCHDEVICE_VERIFY",
    "verify_raise": "TORCHDEVICE_VERIFY_RAISE",
    "rng": "TORCHDEVICE_RNG",
    "allow_untested": "TORCH_ALLOW_REDIRECTS",
}
"""Setting to environment variable."""

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"", "0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user chose.

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
        unknown = set(arguments) - {f.name for f in fields(cls)}
        if unknown:
            raise TypeError(f"redirect() got an unexpected keyword argument {unknown.pop()!r}")
        settings = cls()
        for name, variable in ENVIRONMENT.items():
            if arguments.get(name) is not None:
                value = _checked(name, arguments[name], origin=f"{name}=")
            elif environ.get(variable):
                value = _checked(name, environ[variable], origin=f"{variable}=")
            else:
                continue
            settings = replace(settings, **{name: value})
        return settings

    def to_environment(self) -> dict[str, str]:
        """The variables that give a child process these settings."""
        variables = {}
        for name, variable in ENVIRONMENT.items():
            value = getattr(self, name)
            if value not in (None, False):
                variables[variable] = "true" if value is True else str(value)
        return variables


def _checked(name: str, value: Any, *, origin: str) -> Any:
    if name in ("allow_untested", "verify_raise"):
        return _boolean(value, origin)
    if name == "verify":
        return _share_or_operator(value, origin)
    if name == "target":
        spec = parse(value)
        if spec in (ABSENT, NOT_A_DEVICE, TOGGLE) or spec.type == "meta":
            raise SettingsError(
                f'{origin}{value!r} is not a device: give one such as "mps", "cuda:0" or "cpu".'
            )
        return str(spec)
    choices = _CHOICES[name]
    if value not in choices:
        listed = " or ".join(repr(choice) for choice in choices)
        raise SettingsError(f"{origin}{value!r} is not a value of {name}: give {listed}.")
    return value


_OPERATOR = r"(aten::)?[a-zA-Z_]\w*"


def _share_or_operator(value: Any, origin: str) -> str | None:
    text = "none" if isinstance(value, bool) else str(value).strip()
    try:
        share = float(text)
    except ValueError:
        if not isinstance(value, bool) and re.fullmatch(_OPERATOR, text):
            return text
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise SettingsError(
            f"{origin}{value!r} is neither a share nor an operator: give a number from 0 to 1, or "
            f'a name such as "aten::mm".'
        )
    return text if share else None


def _boolean(value: Any, origin: str) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise SettingsError(f"{origin}{value!r} is neither true nor false: give true or false.")

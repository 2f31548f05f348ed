"""What a substitute does not have: an error that names it, as late as it can be raised."""

from __future__ import annotations

from typing import Any

from ..errors import UnsupportedByTargetError

__all__ = ["MissingNameError", "absent", "unsupported"]


class MissingNameError(UnsupportedByTargetError, AttributeError):
    """A name that a substitute's module does not have.

    Also an `AttributeError`: `hasattr` says no, and `from module import name` is an ImportError.
    """

    def __init__(self, module: str, name: str) -> None:
        package = module.partition(".")[0]
        super().__init__(
            f"{module}.{name} is not in torchdevice's substitute for {package}: use what "
            f"docs/substitutes.md lists, or torch operators."
        )
        self.name = name


def unsupported(what: str, instead: str = "use torch operators") -> UnsupportedByTargetError:
    """The error for a use that a substitute cannot answer exactly.

    Args:
        what: Full name, with the argument where that is the reason.
        instead: What to do, as an imperative.
    """
    return UnsupportedByTargetError(
        f"{what} is not in torchdevice's substitute for {what.partition('.')[0]}: {instead}."
    )


def absent(module: str, name: str) -> type:
    """A class that stands for a name that programs import, but which has no exact substitute.

    A program may import it, and ask whether an object is one; to make or to call one raises.

    Args:
        module: Where it stands.
        name: The name.

    Returns:
        The class.
    """

    full = f"{module}.{name}"

    def refuse(cls: type, *args: Any, **kwargs: Any) -> Any:
        raise unsupported(full)

    # Its class methods and constants, too, are told by name.
    look_up = {"__getattr__": lambda cls, attribute: _no_attribute(full, attribute)}
    metaclass = type("absent", (type,), look_up)
    return metaclass(name, (), {"__new__": refuse, "__module__": module, "__qualname__": name})


def _no_attribute(owner: str, name: str) -> None:
    if name.startswith("__"):
        raise AttributeError(name)
    raise MissingNameError(owner, name)

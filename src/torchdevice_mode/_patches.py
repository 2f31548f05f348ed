"""Every change to torch goes through this: one last-in, first-out list of attribute writes.

A patch remembers the raw entry of its owner's `__dict__`, so that descriptors come back as
they were and an attribute that was absent is absent again.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any, NamedTuple

from ._imports import when_imported

__all__ = [
    "Hook",
    "OnFirstCall",
    "Parameter",
    "Patch",
    "Patches",
    "caller",
    "imported",
    "late",
    "late_file",
    "original_of",
    "parameters",
]

_Context = Callable[[], AbstractContextManager[object]]

_ABSENT = object()
_REPLACES = "_torchdevice_replaces"


def original_of(value: Any) -> Any:
    """What plain torch has in the place of a function; the value itself if it replaces nothing."""
    while isinstance(value, types.FunctionType) and _REPLACES in vars(value):
        value = vars(value)[_REPLACES]
    return value


class Patch(NamedTuple):
    """One attribute of torch that is replaced while redirection is on.

    Attributes:
        owner: Gives the object that holds the attribute; called on installation, so that
            nothing is imported earlier. Returns None where this torch does not have it.
        name: The attribute.
        replace: Gives the new value for the old one.
        reason: Why neither a mode nor an official hook of torch will do.
    """

    owner: Callable[[], Any]
    name: str
    replace: Callable[[Any], Any]
    reason: str


class Hook(NamedTuple):
    """A registration with an official hook of torch or Python.

    Attributes:
        install: Registers, and returns what takes the registration back.
        reason: What the hook is for.
    """

    install: Callable[[], Callable[[], None]]
    reason: str


def late(module: str, patch: Patch, *more: Patch, around: _Context = nullcontext) -> Hook:
    """Patches of a module that torch imports late: made at once if it has been, else then.

    Args:
        module: The module that is waited for; one hook waits for it.
        patch: What is replaced; its owner is asked for when the module has been imported.
        *more: What else is replaced.
        around: Gives the context that the module's code is executed in.

    Returns:
        The hook for the table of all changes.
    """
    return Hook(_installing(module, lambda: (patch, *more), around), patch.reason)


def late_file(file: str, module: str, *, around: _Context = nullcontext) -> Hook:
    """Patches of a module that torch imports late, in a file of ours that is imported after it.

    Args:
        file: The name of the file's module. It has the patches by module, in `PATCHES`.
        module: As of `late`.
        around: As of `late`.

    Returns:
        The hook for the table of all changes.
    """
    reason = f"few programs import {module}"
    return Hook(_installing(module, lambda: import_module(file).PATCHES[module], around), reason)


def _installing(
    module: str, wanted: Callable[[], Sequence[Patch | Hook]], around: _Context
) -> Callable[[], Callable[[], None]]:
    def install() -> Callable[[], None]:
        patches = Patches()
        take_back = when_imported(module, lambda: patches.install(wanted()), around=around)

        def remove() -> None:
            take_back()
            patches.restore()

        return remove

    return install


def imported(module: str, of_class: str = "", *, having: str = "") -> Callable[[], Any]:
    """Finds the owner of a late patch.

    Args:
        module: A module that has been imported when the owner is asked for.
        of_class: A class in it, if that is the owner.
        having: What the owner must define itself, if the patch is for such alone.

    Returns:
        What finds it; it gives None where this torch, or package, does not have it.
    """

    def find() -> Any:
        found = sys.modules.get(module)
        if of_class:
            found = getattr(found, of_class, None)
        return found if found is not None and (not having or having in vars(found)) else None

    return find


class OnFirstCall:
    """Makes what a patch puts in the place of a function that few programs call.

    Its code is imported when the function is first called.

    Args:
        function: A function of ours, as `"package.module:function"`, which makes the replacement
            of the function that it is given.
    """

    def __init__(self, function: str) -> None:
        self.function = function

    def __call__(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """What stands in the function's place: the `replace` of a patch."""
        replacement: Callable[..., Any] | None = None

        @functools.wraps(original)
        def put_off(*args: Any, **kwargs: Any) -> Any:
            nonlocal replacement
            if replacement is None:
                replacement = self.maker()(original)
            return replacement(*args, **kwargs)

        return put_off

    def maker(self) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """The function of ours, imported."""
        file, _, name = self.function.partition(":")
        found: Callable[..., Any] = getattr(import_module(file), name)
        return found


def caller() -> types.FrameType | None:
    """The frame that called the replacement which asks, past what `OnFirstCall` put there."""
    frame = sys._getframe(2)
    put_off = frame.f_code.co_name == "put_off" and frame.f_globals is globals()
    return frame.f_back if put_off else frame


def parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of the parameters of a function written in Python, but for `*` and `**`."""
    # Read off the code, as `inspect.signature` takes a tenth of a millisecond for each.
    code = inspect.unwrap(function).__code__
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


class Parameter:
    """One parameter of a function written in Python: what a call gives for it, or is to give.

    Args:
        function: The function, or a wrapper of it that `functools.wraps` made.
        name: The parameter's name.

    Raises:
        ValueError: If the function has no such parameter.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.name = name
        position = parameters(function).index(name)
        by_keyword_only = position >= inspect.unwrap(function).__code__.co_argcount
        self.position = sys.maxsize if by_keyword_only else position

    def given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a call gives for it; None where it leaves it out."""
        return args[self.position] if len(args) > self.position else kwargs.get(self.name)

    def replaced(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call with another value for it."""
        if len(args) > self.position:
            return (*args[: self.position], value, *args[self.position + 1 :]), kwargs
        return args, {**kwargs, self.name: value}


class Patches:
    """Installs patches and takes them back in the opposite order."""

    def __init__(self) -> None:
        self._installed: list[tuple[Any, str, Any]] = []

    def install(self, patches: Sequence[Patch | Hook]) -> None:
        """Install all of them, or none where one fails.

        Args:
            patches: In the order of installation.

        Raises:
            Exception: Whatever an owner or a replacement raised; what was installed is undone.
        """
        try:
            for patch in patches:
                if isinstance(patch, Hook):
                    self._installed.append((None, "", patch.install()))
                    continue
                owner = patch.owner()
                if owner is not None:
                    self._write(owner, patch)
        except BaseException:
            self.restore()
            raise

    def _write(self, owner: Any, patch: Patch) -> None:
        # `__class__` lives in the type, not in the instance's `__dict__`.
        in_type = patch.name == "__class__"
        before = type(owner) if in_type else vars(owner).get(patch.name, _ABSENT)
        current = before if before is not _ABSENT else getattr(owner, patch.name, None)
        replacement = patch.replace(current)
        if isinstance(replacement, types.FunctionType):
            setattr(replacement, _REPLACES, current)
        setattr(owner, patch.name, replacement)
        self._installed.append((owner, patch.name, before))

    def restore(self) -> None:
        """Put everything back. Each entry is tried even where another fails."""
        errors = []
        while self._installed:
            owner, name, before = self._installed.pop()
            try:
                if owner is None:
                    before()
                elif before is _ABSENT:
                    delattr(owner, name)
                else:
                    setattr(owner, name, before)
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def targets(self) -> list[tuple[Any, str]]:
        """What is replaced at present."""
        return [(owner, name) for owner, name, _ in self._installed if owner is not None]

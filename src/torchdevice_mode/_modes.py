"""Putting our modes on torch's per-thread stacks, and taking them off again.

At most one function mode of ours is on a thread's stack: the innermost redirection decides, so
an outer one steps aside while it lasts. Modes of others keep their places.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from . import _active
from ._context import Context
from ._function_mode import RedirectFunctionMode

__all__ = [
    "dispatch_modes",
    "entered",
    "innermost",
    "plain_torch",
    "replace_innermost",
    "restore_stack",
    "retire",
    "take_off",
]

_pop = torch._C._pop_torch_function_stack
_push = torch._C._push_on_torch_function_stack


class _RetiredFunctionMode(TorchFunctionMode):
    """What a mode becomes when its redirection ends while other threads still hold it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return func(*args, **kwargs) if kwargs else func(*args)


def _is_ours(mode: object) -> bool:
    return isinstance(mode, (RedirectFunctionMode, _RetiredFunctionMode))


def innermost() -> RedirectFunctionMode | None:
    """Our mode on this thread's stack, if it is there and not set aside by a running call."""
    for mode in reversed(_get_current_function_mode_stack()):
        if isinstance(mode, RedirectFunctionMode):
            return mode
    return None


def replace_innermost(mode: RedirectFunctionMode | None) -> list[TorchFunctionMode]:
    """Put a mode on top of this thread's stack in place of any other of ours.

    Args:
        mode: The mode; None to leave the thread without one.

    Returns:
        The stack as it was, for `restore_stack`.
    """
    before = _get_current_function_mode_stack()
    _set_stack([*(m for m in before if not _is_ours(m)), *([mode] if mode else [])])
    return before


def restore_stack(before: list[TorchFunctionMode]) -> None:
    """Undo `replace_innermost`; modes that others pushed or popped meanwhile stay as they are."""
    others = [m for m in _get_current_function_mode_stack() if not _is_ours(m)]
    if others == [m for m in before if not _is_ours(m)]:
        _set_stack([m for m in before if not isinstance(m, _RetiredFunctionMode)])
    else:
        ours = [m for m in before if isinstance(m, RedirectFunctionMode)]
        _set_stack([*others, *ours])


def take_off(mode: RedirectFunctionMode) -> None:
    """Take a mode off this thread's stack, if it is there; modes of others stay."""
    stack = _get_current_function_mode_stack()
    _set_stack([m for m in stack if m is not mode and not isinstance(m, _RetiredFunctionMode)])


def _set_stack(modes: list[TorchFunctionMode]) -> None:
    for _ in range(torch._C._len_torch_function_stack()):
        _pop()
    for mode in modes:
        _push(mode)


def retire(mode: RedirectFunctionMode) -> None:
    """Make a mode pass every call through, in whatever threads still have it on their stacks."""
    mode.__class__ = _RetiredFunctionMode  # type: ignore[assignment]


@contextmanager
def entered(context: Context) -> Iterator[None]:
    """Our function mode on top of this thread's stack for a block, in place of any of ours."""
    before = replace_innermost(RedirectFunctionMode(context))
    try:
        yield
    finally:
        restore_stack(before)


@contextmanager
def plain_torch() -> Iterator[None]:
    """No redirection in this thread for a block: none holds, and no mode of ours is on."""
    with _active.held(None):
        before = replace_innermost(None)
        try:
            yield
        finally:
            restore_stack(before)


def dispatch_modes(context: Context) -> ExitStack:
    """Enter the dispatch modes that a redirection's settings ask for, in this thread.

    Args:
        context: The redirection.

    Returns:
        What leaves them again when it is closed, as the end of a `with` block does.
    """
    with ExitStack() as modes:
        if context.settings.dispatch == "always":
            from ._dispatch_mode import RedirectDispatchMode

            modes.enter_context(RedirectDispatchMode(context))
        if context.settings.profile:
            from ._profile import ProfileMode

            modes.enter_context(ProfileMode(context))
        if context.settings.verify is not None:
            from ._verify import VerifyMode

            modes.enter_context(VerifyMode(context))
        return modes.pop_all()

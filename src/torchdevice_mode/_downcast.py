"""Casting float64 down: how it is said, and what becomes of float64 that was made elsewhere."""

from __future__ import annotations

import re
import types
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from ._context import Context
from ._dtypes import HELD_ONLY, NARROWER, narrowed, refuse_held
from ._ledger import Place
from ._log import warn_once
from ._origins import origin

__all__ = [
    "IN_CPP",
    "brought_back",
    "narrowed_arguments",
    "narrowed_operator",
    "note_downcast",
    "refused_dtype",
]

# Metal's texts, of several versions of torch, and the dtype in C++'s name for it.
_REFUSED = re.compile(
    r"(doesn't support float64)|(?:Trying to convert|Undefined type) (?:c10::)?(\w+)"
    r"|(does not have support for that dtype)"
)
IN_CPP = {"Double": torch.float64, "ComplexDouble": torch.complex128}
"""The dtypes that the setting is about, by C++'s names for them."""

_NAMES = {torch.float64: ("float64", "float32"), torch.complex128: ("complex128", "complex64")}


def refused_dtype(text: str) -> str | None:
    """The dtype that an error says the target lacks, in C++'s name for it; None for others."""
    found = _REFUSED.search(text)
    if found is None:
        return None
    return found[2] or "Double"


def narrowed_operator(
    context: Context,
    operator: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    error: Exception,
    frame: types.FrameType,
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The arguments of an operator that was refused for float64, cast down.

    Args:
        context: The redirection.
        operator: An `OpOverload`.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        error: What the target said.
        frame: Where to begin to look for the program's frame.

    Returns:
        The arguments; None where nothing given is float64, or the error is about something else.

    Raises:
        Exception: The error, where the setting is another: the function mode acts on that.
    """
    refused = IN_CPP.get(refused_dtype(str(error)) or "")
    if refused is None:
        return None
    if context.settings.float64 != "downcast":
        raise error
    if any(a.alias_info is not None for a in operator._schema.arguments):
        return None  # it writes
    given = narrowed_arguments(context, args, kwargs)
    if given is not None:
        note_downcast(context, str(operator._schema.name), frame, refused)
    return given


def narrowed_arguments(
    context: Context, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The arguments of a call with float32 in place of float64, and complex64 of complex128.

    Args:
        context: The redirection.
        args: The positional arguments.
        kwargs: The keyword arguments.

    Returns:
        The arguments; None where nothing among them is cast down.
    """
    leaves, spec = tree_flatten((args, kwargs))
    narrow = [narrowed(leaf, context.target.type) for leaf in leaves]
    if all(new is leaf for new, leaf in zip(narrow, leaves, strict=True)):
        return None
    new_args, new_kwargs = tree_unflatten(narrow, spec)
    return new_args, new_kwargs


def note_downcast(
    context: Context,
    name: str,
    frame: types.FrameType | Place | None,
    dtype: torch.dtype = torch.float64,
) -> None:
    """Count a downcast and warn at its call site, once.

    Args:
        context: The redirection.
        name: The function that was called.
        frame: Where to begin to look for the program's frame.
        dtype: What was asked for.
    """
    wide, narrow = _NAMES[dtype]
    lacking = context.target.type
    place = origin(frame) if isinstance(frame, types.FrameType) else frame
    asked, reason = f"{wide} in {name}", f"{lacking} has no {wide}"
    context.record_cost("downcast", asked, narrow, reason, place)
    site = None if place is None else (place.f_code.co_filename, place.f_lineno)
    warn_once(
        "float64-downcast",
        f"{name} asked for {wide}, which {lacking} lacks, and got {narrow}: use {narrow} here, or "
        f'float64="cpu" to keep such tensors on the CPU.',
        key=site,
        place=place,
    )


def brought_back(
    context: Context, made: torch.Tensor, name: str, frame: types.FrameType | Place | None
) -> torch.Tensor:
    """A tensor that the CPU made for the target, where it is to be.

    Args:
        context: The redirection.
        made: The tensor.
        name: The function that made it.
        frame: Where to begin to look for the program's frame.

    Returns:
        The tensor on the target; what that lacks the dtype for, as the setting says.

    Raises:
        TypeError: If the setting is that torch refuses it.
    """
    if made.dtype not in NARROWER or not context.lacks_float64:
        return made.to(context.target)
    # The engine takes gradients on their tensor's device only.
    in_backward = torch._C._current_autograd_node() is not None
    if context.settings.float64 == "cpu" and not in_backward:
        return made
    if context.settings.float64 == "error" and not in_backward:
        moved = made.to(context.target)
        if moved.dtype is HELD_ONLY:
            refuse_held(moved, context.lacks_float64)
        return moved
    if not in_backward:
        note_downcast(context, name, frame, made.dtype)
    narrow: torch.Tensor = narrowed(made, context.target.type)
    return narrow.to(context.target)

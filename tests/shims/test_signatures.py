"""What answers for a name of torch takes what torch's own takes: names, kinds and defaults."""

from __future__ import annotations

import inspect
import types

import pytest
import torch

from torchdevice_mode._shims import SURFACES
from torchdevice_mode._shims._surface import State

OLDER = tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 13)
ANSWERED = (State.MAPPED, State.EMULATED, State.STUBBED)


def answered_by(kind):
    """Rows whose answer and whose name in plain torch are both of a kind."""
    return [
        pytest.param(surface.plain(name), row.answer, id=f"{surface.root}.{name}")
        for surface in SURFACES
        for name, row in surface.rows.items()
        if row.state in ANSWERED
        and isinstance(row.answer, kind)
        and isinstance(surface.plain(name), kind)
    ]


# A dtype and a device in one name: called like the C++ constructors that they stand for.
CLASSES = [row for row in answered_by(type) if not row.id.endswith(("Tensor", "Storage"))]


def parameters(function, *, skip=0):
    taken = list(inspect.signature(function).parameters.values())[skip:]
    return [(p.name, p.kind, p.default) for p in taken]


def takes_anything(taken):
    return all(
        kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        for _, kind, _ in taken
    )


def unwrapped(answer):
    """The row's own function, below what falls back to plain torch and what counts a stub."""
    while "answer" in (cells := inspect.getclosurevars(answer).nonlocals):
        answer = cells["answer"]
    return answer


def same(ours, theirs):
    """Equal; an older torch may lack parameters that the newest has, with their defaults."""
    if not OLDER:
        return ours == theirs
    extra = [parameter for parameter in ours if parameter not in theirs]
    return [p for p in ours if p not in extra] == theirs and all(
        default is not inspect.Parameter.empty for _, _, default in extra
    )


def constructor(kind):
    """What a class takes, from the first of its constructors that says more than "anything"."""
    for name in ("__new__", "__init__"):
        found = inspect.getattr_static(kind, name)
        found = getattr(found, "__func__", found)
        if isinstance(found, types.FunctionType) and not takes_anything(parameters(found, skip=1)):
            return parameters(found, skip=1)
    return None


@pytest.mark.parametrize(("plain", "answer"), answered_by(types.FunctionType))
def test_a_function_takes_what_torchs_takes(plain, answer):
    ours, theirs = parameters(unwrapped(answer)), parameters(plain)
    assert same(ours, theirs) or takes_anything(ours)


@pytest.mark.parametrize(("plain", "answer"), CLASSES)
def test_a_class_takes_what_torchs_takes(plain, answer):
    ours, theirs = constructor(answer), constructor(plain)
    assert ours == theirs or same(ours, theirs)


@pytest.mark.parametrize(("plain", "answer"), CLASSES)
def test_a_class_has_torchs_methods_and_they_take_what_torchs_take(plain, answer):
    for name, member in vars(plain).items():
        if name.startswith("_"):
            continue
        function = getattr(member, "__func__", member)
        if isinstance(function, types.FunctionType):
            ours = inspect.getattr_static(answer, name, None)
            assert ours is not None, name
            taken = parameters(getattr(ours, "__func__", ours))
            assert same(taken, parameters(function)), name


def test_there_is_something_to_compare():
    assert len(answered_by(types.FunctionType)) > 100 and len(CLASSES) >= 8

"""Patches: what is put in the place of attributes, and when its code is imported."""

from __future__ import annotations

import functools
import sys
import types
from importlib import import_module

import pytest

from torchdevice_mode import _patches, _shims
from torchdevice_mode._patches import OnFirstCall, Parameter, Patch, Patches
from torchdevice_mode._shims import ALL_PATCHES, _when_used


@pytest.fixture
def late_code(tmp_path, monkeypatch):
    """A file that makes a replacement, and tells who called what it replaces."""
    (tmp_path / "late_code.py").write_text(
        "from torchdevice_mode._patches import caller\n"
        "def doubled(original):\n"
        "    return lambda *args: (2 * original(*args), caller().f_code.co_name)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "late_code"
    sys.modules.pop("late_code", None)


def test_code_is_imported_when_what_it_replaces_is_first_called(late_code):
    owner = types.SimpleNamespace(f=lambda x: x + 1)
    plain, patches = owner.f, Patches()
    patches.install([Patch(lambda: owner, "f", OnFirstCall(f"{late_code}:doubled"), "a test")])
    assert owner.f is not plain
    assert _patches.original_of(owner.f) is plain
    assert late_code not in sys.modules
    name = test_code_is_imported_when_what_it_replaces_is_first_called.__name__
    assert owner.f(3) == (8, name)
    assert late_code in sys.modules
    assert owner.f(4) == (10, name)
    patches.restore()
    assert owner.f is plain


@pytest.mark.parametrize("file", _when_used.FILES)
def test_a_file_has_patches_of_the_modules_that_it_waits_for(file):
    patches = import_module(f"{_shims.__name__}.{file}").PATCHES
    assert set(patches) == set(_when_used.FILES[file])
    assert all(patch.reason for rows in patches.values() for patch in rows)


PUT_OFF = sorted(
    {
        p.replace.function
        for p in ALL_PATCHES
        if isinstance(p, Patch) and isinstance(p.replace, OnFirstCall)
    }
)


@pytest.mark.parametrize("function", PUT_OFF)
def test_code_that_is_imported_late_is_there(function):
    assert callable(OnFirstCall(function).maker())


def function(a, b=2, *args, c=3, **kwargs):
    return a, b, args, c, kwargs


@functools.wraps(function)
def wrapper(*args, **kwargs):
    return function(*args, **kwargs)


@pytest.mark.parametrize("of", [function, wrapper])
@pytest.mark.parametrize(
    ("name", "args", "kwargs", "given", "replaced"),
    [
        ("b", (1, 5), {}, 5, ((1, 9), {})),
        ("b", (1,), {"b": 5}, 5, ((1,), {"b": 9})),
        ("b", (1,), {}, None, ((1,), {"b": 9})),
        ("c", (1, 5, 6), {"c": 7}, 7, ((1, 5, 6), {"c": 9})),
    ],
)
def test_a_parameter_is_found_and_replaced(of, name, args, kwargs, given, replaced):
    parameter = Parameter(of, name)
    assert parameter.given(args, kwargs) == given
    assert parameter.replaced(args, kwargs, 9) == replaced


def test_a_parameter_that_is_not_there_is_an_error():
    with pytest.raises(ValueError, match="not in tuple"):
        Parameter(function, "kwargs")

"""Waiting for a module: called once, at the end of the import, and nothing is left behind."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from contextlib import contextmanager

import pytest

from torchdevice_mode import _imports
from torchdevice_mode._imports import when_imported


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A small package named torch, not yet imported."""
    (tmp_path / "torch").mkdir()
    source = tmp_path / "torch" / "__init__.py"
    source.write_text("complete = True\n")
    (tmp_path / "torch" / "nn.py").write_text("")
    real = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "torch"}
    for name in real:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield source
    for name in [name for name in sys.modules if name.split(".")[0] == "torch"]:
        del sys.modules[name]


def test_acts_at_once_where_torch_is_imported():
    called = []
    when_imported("torch", lambda: called.append(1))
    assert called == [1]


def test_acts_once_when_the_import_is_complete(stand_in):
    states = []
    when_imported("torch", lambda: states.append(sys.modules["torch"].complete))
    assert states == []
    import torch.nn

    assert states == [True]
    assert "exec_module" not in vars(torch.__loader__)
    assert not any(isinstance(finder, _imports._Finder) for finder in sys.meta_path)
    importlib.reload(torch)
    assert states == [True]


def test_looking_for_torch_does_not_act(stand_in):
    called = []
    when_imported("torch", lambda: called.append(1))
    assert importlib.util.find_spec("torch").origin == str(stand_in)
    assert called == []
    import torch  # noqa: F401

    assert called == [1]


def test_waits_for_an_import_that_succeeds(stand_in):
    called = []
    when_imported("torch", lambda: called.append(1))
    stand_in.write_text("raise RuntimeError('broken')  # longer\n")
    importlib.invalidate_caches()
    with pytest.raises(RuntimeError, match="broken"):
        import torch
    assert called == []
    stand_in.write_text("complete = True  # and longer than it was before\n")
    import torch  # noqa: F401

    assert called == [1]


def test_what_the_action_raises_comes_out_of_the_import(stand_in):
    def refuse():
        raise ValueError("refused")

    when_imported("torch", refuse)
    with pytest.raises(ValueError, match="refused"):
        import torch  # noqa: F401


def test_what_is_taken_back_is_not_done(stand_in):
    called = []
    take_back = when_imported("torch", lambda: called.append(1))
    take_back()
    take_back()
    import torch  # noqa: F401

    assert called == []


def test_a_module_is_executed_in_the_context_that_is_given(stand_in):
    @contextmanager
    def around():
        seen.append("before")
        yield
        seen.append(sys.modules["torch"].complete)

    seen = []
    when_imported("torch", lambda: seen.append("after"), around=around)
    import torch  # noqa: F401

    assert seen == ["before", True, "after"]


def test_several_may_wait_for_one_module(stand_in):
    called = []
    for number in range(3):
        when_imported("torch", lambda number=number: called.append(number))
    when_imported("torch", lambda: called.append(3))()
    import torch

    assert sorted(called) == [0, 1, 2]
    assert "exec_module" not in vars(torch.__loader__)
    assert not any(isinstance(finder, _imports._Finder) for finder in sys.meta_path)

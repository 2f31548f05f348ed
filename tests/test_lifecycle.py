"""Entering and leaving redirection, in every spelling, and what is left behind: nothing."""

from __future__ import annotations

import asyncio
import pickle
import threading

import pytest
import torch
from _seen import is_redirected

import torchdevice_mode
from torchdevice_mode import SettingsError, TargetError


def test_plain_torch_is_not_redirected():
    assert not is_redirected()


def test_a_block_redirects_and_ends():
    with torchdevice_mode.redirect():
        assert is_redirected()
        assert torchdevice_mode.is_active()
    assert not is_redirected()
    assert not torchdevice_mode.is_active()


def test_an_exception_leaves_the_block_and_passes():
    with pytest.raises(ZeroDivisionError), torchdevice_mode.redirect():
        raise ZeroDivisionError
    assert not is_redirected()


def test_a_block_may_be_entered_again_and_within_itself():
    block = torchdevice_mode.redirect()
    for _ in range(2):
        with block, block:
            assert is_redirected()
        assert not is_redirected()


def test_blocks_nest_and_the_innermost_decides(target):
    with torchdevice_mode.redirect():
        with torchdevice_mode.redirect(target="cpu"):
            assert torch.zeros(1, device="cuda").device.type == "cpu"
        assert torch.zeros(1, device="cuda").device == target


def test_native_is_plain_torch_and_can_hold_a_redirection():
    with torchdevice_mode.redirect():
        with torchdevice_mode.native():
            assert not is_redirected()
            with torchdevice_mode.redirect():
                assert is_redirected()
            assert not is_redirected()
        assert is_redirected()


def test_native_decorates():
    check = torchdevice_mode.native()(is_redirected)
    with torchdevice_mode.redirect():
        assert not check()


def test_modes_of_others_keep_their_places():
    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    below, above = Mode(), Mode()
    stack = torch.overrides._get_current_function_mode_stack
    with below, torchdevice_mode.redirect(), above:
        with torchdevice_mode.redirect():
            assert [m for m in stack() if isinstance(m, Mode)] == [below, above]
            assert len(stack()) == 3
        assert stack()[0] is below
        assert stack()[2] is above


# --- decorators -----------------------------------------------------------------------------


def test_a_function_is_decorated():
    @torchdevice_mode.redirect()
    def check(a, *, b):
        """Its docstring."""
        return is_redirected(), a, b

    assert check(1, b=2) == (True, 1, 2)
    assert not is_redirected()
    assert (check.__name__, check.__doc__) == ("check", "Its docstring.")


def test_the_decorator_needs_no_parentheses():
    @torchdevice_mode.redirect
    def check():
        return is_redirected()

    assert check()


def test_a_class_is_decorated_method_by_method():
    @torchdevice_mode.redirect()
    class Trainer:
        def __init__(self):
            self.at_init = is_redirected()

        def step(self):
            return is_redirected()

        @staticmethod
        def static():
            return is_redirected()

        @classmethod
        def made_by(cls):
            return cls, is_redirected()

        @property
        def plain(self):
            return is_redirected()

    trainer = Trainer()
    assert trainer.at_init
    assert trainer.step()
    assert Trainer.static()
    assert Trainer.made_by() == (Trainer, True)
    assert isinstance(trainer, Trainer)
    assert not is_redirected()


def test_a_generator_is_redirected_while_it_runs_and_not_while_it_waits():
    @torchdevice_mode.redirect()
    def steps():
        received = yield is_redirected()
        try:
            yield received, is_redirected()
        except KeyError:
            yield "caught", is_redirected()
        return "done"

    running = steps()
    assert next(running)
    assert not is_redirected()
    assert running.send("sent") == ("sent", True)
    assert not is_redirected()
    assert running.throw(KeyError()) == ("caught", True)
    with pytest.raises(StopIteration) as stop:
        next(running)
    assert stop.value.value == "done"


def test_a_generator_that_is_closed_cleans_up_redirected():
    seen = []

    @torchdevice_mode.redirect()
    def steps():
        try:
            yield 1
        finally:
            seen.append(is_redirected())

    running = steps()
    next(running)
    running.close()
    assert seen == [True]


def test_coroutines_take_turns_without_sharing_their_redirection():
    @torchdevice_mode.redirect()
    async def redirected(log):
        for _ in range(3):
            log.append(("redirected", is_redirected()))
            await asyncio.sleep(0)
        return "value"

    async def plain(log):
        for _ in range(3):
            log.append(("plain", is_redirected()))
            await asyncio.sleep(0)

    async def main():
        log = []
        value, _ = await asyncio.gather(redirected(log), plain(log))
        return value, log

    value, log = asyncio.run(main())
    assert value == "value"
    assert log == [("redirected", True), ("plain", False)] * 3


def test_an_async_generator_is_decorated():
    @torchdevice_mode.redirect()
    async def numbers():
        for i in range(2):
            await asyncio.sleep(0)
            yield i, is_redirected()

    async def main():
        return [item async for item in numbers()]

    assert asyncio.run(main()) == [(0, True), (1, True)]


def test_an_exception_from_a_coroutine_passes():
    @torchdevice_mode.redirect()
    async def fail():
        await asyncio.sleep(0)
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        asyncio.run(fail())


def test_what_cannot_be_decorated_is_an_error():
    with pytest.raises(TypeError, match="int"):
        torchdevice_mode.redirect()(3)


# --- enable and disable ---------------------------------------------------------------------


@pytest.fixture
def enabled():
    torchdevice_mode.enable()
    yield
    torchdevice_mode.disable()


def test_enable_and_disable():
    torchdevice_mode.enable()
    try:
        assert is_redirected()
    finally:
        torchdevice_mode.disable()
    assert not is_redirected()


def test_enabling_twice_is_enabling_once():
    torchdevice_mode.enable()
    torchdevice_mode.enable()
    assert is_redirected()
    torchdevice_mode.disable()
    assert not is_redirected()


def test_enabling_with_other_settings_replaces_the_first(enabled):
    torchdevice_mode.enable(target="cpu")
    assert torchdevice_mode.target() == "cpu"
    assert torch.zeros(1, device="cuda").device.type == "cpu"


def test_disabling_when_off_does_nothing():
    torchdevice_mode.disable()
    assert not is_redirected()


def test_a_block_within_enable_returns_to_it(enabled):
    with torchdevice_mode.native():
        assert not is_redirected()
    assert is_redirected()


def test_disable_may_be_called_within_a_block():
    torchdevice_mode.enable()
    with torchdevice_mode.redirect():
        torchdevice_mode.disable()
        assert is_redirected()
    assert not is_redirected()


def test_disable_may_be_called_from_another_thread():
    torchdevice_mode.enable()
    thread = threading.Thread(target=torchdevice_mode.disable)
    thread.start()
    thread.join()
    assert not is_redirected()
    # The mode that stayed on this thread's stack passes every call through; take it away.
    with torchdevice_mode.redirect():
        pass


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"target": "xpu"}, TargetError),
        ({"target": "nonsense!"}, SettingsError),
        ({"policy": "strict"}, SettingsError),
        ({"colour": "red"}, TypeError),
    ],
)
def test_a_bad_setting_leaves_nothing_half_enabled(settings, error):
    with pytest.raises(error):
        torchdevice_mode.enable(**settings)
    assert not is_redirected()
    with pytest.raises(error), torchdevice_mode.redirect(**settings):
        pass
    assert not is_redirected()


def test_a_failing_patch_leaves_nothing_half_enabled(monkeypatch):
    from torchdevice_mode import _session
    from torchdevice_mode._patches import Patch

    def fail(original):
        raise LookupError("no such thing")

    patches = (*_session.ALL_PATCHES, Patch(lambda: torch, "zeros", fail, "to fail"))
    monkeypatch.setattr(_session, "ALL_PATCHES", patches)
    with pytest.raises(LookupError), torchdevice_mode.redirect():
        pass
    assert not is_redirected()
    monkeypatch.undo()
    with torchdevice_mode.redirect():
        assert is_redirected()


def test_an_untested_torch_is_refused_with_one_warning(monkeypatch):
    from torchdevice_mode import _log, _session

    monkeypatch.setattr(_session, "_TESTED_TORCH", ((1, 0), (1, 1)))
    _log.forget_warnings()
    with pytest.warns(torchdevice_mode.TorchDeviceWarning, match="TORCH_ALLOW_REDIRECTS") as said:
        for _ in range(2):
            with torchdevice_mode.redirect():
                assert not is_redirected()
    assert len(said) == 1
    assert said[0].filename == __file__
    with torchdevice_mode.redirect(allow_untested=True):
        assert is_redirected()


# --- what torch does with the replaced classes ----------------------------------------------


def test_generators_keep_their_class(redirected):
    generator = torch.Generator()
    assert isinstance(generator, torch.Generator)
    assert type(pickle.loads(pickle.dumps(generator))) is type(generator)
    with torchdevice_mode.native():
        assert isinstance(generator, torch.Generator)


def test_a_subclass_of_a_replaced_class_is_one_of_both(redirected):
    class Seeded(torch.Generator):
        pass

    assert isinstance(Seeded(), torch.Generator)
    assert isinstance(Seeded(), Seeded)
    assert not isinstance(torch.Generator(), Seeded)
    assert issubclass(Seeded, torch.Generator)


def test_torch_device_is_not_replaced(redirected):
    assert isinstance(torch.device("cuda"), torch.device)
    assert (torch.device | str).__args__ == (torch.device, str)
    assert pickle.loads(pickle.dumps(torch.device("cuda"))) == torch.device("cuda")

"""Redirection and threads: who has it, who has not, and that nothing is lost between them."""

from __future__ import annotations

import asyncio
import ctypes
import queue
import random
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from _seen import is_redirected
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.checkpoint import checkpoint

import torchdevice_mode
from torchdevice_mode import _active, _session
from torchdevice_mode._shims import threads

# Plain torch's answer.
PLAIN = torch.cuda.is_available()


class Worker:
    """A thread that is running already, and does what it is asked."""

    def __init__(self):
        self._questions = queue.Queue()
        self._answers = queue.Queue()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self):
        while (question := self._questions.get()) is not None:
            try:
                self._answers.put((question(), None))
            except BaseException as error:
                self._answers.put((None, error))

    def ask(self, question):
        self._questions.put(question)
        answer, error = self._answers.get(timeout=60)
        if error is not None:
            raise error
        return answer

    def stop(self):
        self._questions.put(None)
        self._thread.join()


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.stop()


@contextmanager
def enabled(**settings):
    torchdevice_mode.enable(**settings)
    try:
        yield
    finally:
        torchdevice_mode.disable()


# --- blocks -------------------------------------------------------------------------------------


def test_a_thread_started_in_a_block_inherits_it():
    seen = []
    with torchdevice_mode.redirect():
        thread = threading.Thread(target=lambda: seen.append(is_redirected()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_a_block_does_not_leak_into_other_threads():
    seen = []
    may_look, looked = threading.Event(), threading.Event()

    def look():
        may_look.wait(10)
        seen.append(is_redirected())
        looked.set()

    thread = threading.Thread(target=look)
    thread.start()
    with torchdevice_mode.redirect():
        may_look.set()
        looked.wait(10)
    thread.join()
    assert seen == [False]


def test_a_thread_that_outlives_its_block_is_plain_again():
    seen = []
    ended = threading.Event()

    def look():
        seen.append((is_redirected(), torch.cuda.is_available()))
        ended.wait(10)
        seen.append((is_redirected(), torch.cuda.is_available()))

    with torchdevice_mode.redirect(policy="explicit"):
        with torchdevice_mode.redirect():
            thread = threading.Thread(target=look)
            thread.start()
            while not seen:
                pass
        ended.set()
        thread.join()
    assert seen == [(True, True), (False, PLAIN)]


def test_pools_started_before_and_within_are_redirected():
    with ThreadPoolExecutor(1) as before:
        assert not before.submit(is_redirected).result()
        with torchdevice_mode.redirect():
            assert before.submit(is_redirected).result()
            with ThreadPoolExecutor(1) as within:
                assert list(within.map(lambda _: is_redirected(), range(2))) == [True, True]
        assert not before.submit(is_redirected).result()


def test_enable_reaches_threads_started_later():
    seen = []
    with enabled():
        thread = threading.Thread(target=lambda: seen.append(is_redirected()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_a_profile_hook_of_others_still_runs():
    calls = []
    threading.setprofile(lambda frame, event, arg: calls.append(event))
    try:
        with torchdevice_mode.redirect():
            thread = threading.Thread(target=is_redirected)
            thread.start()
            thread.join()
    finally:
        threading.setprofile(None)
    assert calls


# --- enable() -----------------------------------------------------------------------------------


@pytest.mark.off_cuda
def test_enable_reaches_threads_that_are_running(worker, target):
    with enabled():
        assert worker.ask(lambda: torch.zeros(2, device="cuda").device) == target
        assert worker.ask(is_redirected)
    assert not worker.ask(is_redirected)
    assert worker.ask(torch.cuda.is_available) is PLAIN


@pytest.mark.off_cuda
def test_a_running_thread_that_a_profiler_keeps_from_being_reached_is_told_what_to_do(
    worker, target
):
    sys.setprofile(lambda frame, event, argument: None)
    try:
        with enabled():
            with pytest.raises(AssertionError, match=r"was running before torchdevice.enable\(\)"):
                worker.ask(lambda: torch.zeros(2, device="cuda"))
            assert worker.ask(lambda: torch.zeros(2, device="cuda").device) == target
    finally:
        sys.setprofile(None)


def test_threads_have_no_mode_left_when_enabling_ends(worker):
    with enabled():
        assert worker.ask(is_redirected)
        late = Worker()
    try:
        for one in (worker, late):
            assert one.ask(_get_current_function_mode_stack) == []
    finally:
        late.stop()


@pytest.mark.parametrize("block", [torchdevice_mode.redirect, torchdevice_mode.native])
def test_what_is_enabled_within_a_block_holds_after_it(block, target):
    with block():
        torchdevice_mode.enable()
    try:
        assert torch.zeros(2, device="cuda").device == target
    finally:
        torchdevice_mode.disable()
    assert _get_current_function_mode_stack() == []


def test_a_thread_may_end_what_another_enabled(worker):
    torchdevice_mode.enable()
    assert worker.ask(is_redirected)

    def end():
        with torchdevice_mode.redirect():
            torchdevice_mode.disable()
            assert is_redirected()
        return _get_current_function_mode_stack()

    assert worker.ask(end) == []
    assert not is_redirected()
    assert _get_current_function_mode_stack() == []


@pytest.mark.parametrize("dispatch", ["auto", "always"])
def test_a_thread_leaves_its_modes_before_it_ends(dispatch):
    """What torch has to let go of later aborts a process that is ending, too."""
    seen = []

    def at_its_end():
        modes = _get_current_function_mode_stack() + _get_current_dispatch_mode_stack()
        seen.append((threading.get_ident(), modes))

    def work():
        assert is_redirected()
        torch.ones(2, requires_grad=True).sum().backward()
        # Called when what is watched has been deleted.
        weakref.finalize(threads._local.given, at_its_end)

    with enabled(dispatch=dispatch):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert seen == [(thread.ident, [])]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's threads")
@pytest.mark.parametrize("dispatch", ["auto", "always"])
def test_threads_of_cpp_call_python_again_and_again(dispatch):
    """They have a state in Python for the time of a call, as those of gloo that call hooks."""
    seen = []

    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
    def call(_):
        seen.append((torch.cuda.is_available(), _active.current() is not None))
        torch.ones(2, requires_grad=True).sum().backward()

    system = ctypes.CDLL(None)
    with enabled(dispatch=dispatch):
        for _ in range(3):
            thread = ctypes.c_ulong()
            assert system.pthread_create(ctypes.byref(thread), None, call, None) == 0
            assert system.pthread_join(thread, None) == 0
    assert seen == [(True, True)] * 3


def test_a_thread_follows_from_one_enabling_to_the_next(worker):
    for policy in ("force", "explicit", "force"):
        with enabled(policy=policy):
            assert worker.ask(torch.cuda.is_available)
            assert worker.ask(lambda: _active.current().settings.policy) == policy
            assert worker.ask(is_redirected)
        assert not worker.ask(is_redirected)


def test_a_profiler_that_is_on_stays_on(worker):
    calls = []

    def profiler(frame, event, arg):
        calls.append(event)

    sys.setprofile(profiler)
    try:
        with enabled():
            assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)
    assert threading.getprofile() is None


def test_native_holds_in_a_thread_although_all_are_redirected(worker):
    def look():
        with torchdevice_mode.native():
            return is_redirected(), torch.cuda.is_available() and not torch.cuda.is_initialized()

    with enabled():
        assert worker.ask(look)[0] is False


def test_redirection_that_ends_while_threads_run_leaves_them_on_plain_torch():
    stop, errors, rounds = threading.Event(), [], [0] * 4

    def run(which):
        try:
            while not stop.is_set():
                x = torch.ones(4, requires_grad=True)
                (x * 2).sum().backward()
                assert x.grad.tolist() == [2.0] * 4
                rounds[which] += 1
        except BaseException as error:
            errors.append(error)

    with enabled():
        threads = [threading.Thread(target=run, args=(which,)) for which in range(4)]
        for thread in threads:
            thread.start()
        while min(rounds) < 2 and not errors:
            time.sleep(0.001)
    reached = list(rounds)
    while min(now - then for now, then in zip(rounds, reached, strict=True)) < 2 and not errors:
        time.sleep(0.001)
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors


# --- asyncio ------------------------------------------------------------------------------------


def test_executors_of_asyncio_are_redirected_with_the_task_that_asks():
    async def ask():
        loop = asyncio.get_running_loop()
        outside = await asyncio.to_thread(is_redirected)
        with torchdevice_mode.redirect():
            inside = await asyncio.to_thread(is_redirected)
            by_hand = await loop.run_in_executor(None, is_redirected)
        return outside, inside, by_hand, await asyncio.to_thread(is_redirected)

    assert asyncio.run(ask()) == (False, True, True, False)


# --- autograd -----------------------------------------------------------------------------------


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.full((1,), 3.0, device="cuda")

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * torch.full((1,), 3.0, device="cuda") + 0 * x.cuda()


def with_a_tensor_hook(x):
    x.register_hook(lambda gradient: gradient * torch.full((1,), 3.0, device="cuda"))
    return x * 1


def with_a_hook_after_accumulation(x):
    def hook(leaf):
        leaf.grad.mul_(torch.full((1,), 3.0, device="cuda"))

    x.register_post_accumulate_grad_hook(hook)
    return x * 1


def with_module_hooks(x):
    module = torch.nn.Identity()
    three = lambda gradient: gradient * torch.full((1,), 3.0, device="cuda")  # noqa: E731
    module.register_full_backward_hook(lambda module, given, got: (three(given[0]),))
    module.register_forward_hook(lambda module, args, result: result + torch.zeros(1).cuda())
    return module(x)


def with_saved_tensors_hooks(x):
    pack = lambda saved: saved.cpu().numpy()  # noqa: E731
    unpack = lambda packed: torch.from_numpy(packed).to("cuda")  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return x * torch.full((4,), 3.0, device="cuda", requires_grad=True)


def with_tensors_saved_on_the_cpu(x):
    with torch.autograd.graph.save_on_cpu(pin_memory=True):
        return x * torch.full((4,), 3.0, device="cuda", requires_grad=True)


def tripled(x):
    return x * torch.full((1,), 3.0, device="cuda")


WAYS = {
    "custom Function": Scaled.apply,
    "tensor hook": with_a_tensor_hook,
    "hook after accumulation": with_a_hook_after_accumulation,
    "module hooks": with_module_hooks,
    "saved tensors hooks": with_saved_tensors_hooks,
    "tensors saved on the CPU": with_tensors_saved_on_the_cpu,
    "checkpoint": lambda x: checkpoint(tripled, x, use_reentrant=False),
    "reentrant checkpoint": lambda x: checkpoint(tripled, x, use_reentrant=True),
}
PLACES = {
    "here": lambda work: work(),
    "in a new thread": lambda work: ThreadPoolExecutor(1).submit(work).result(),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("policy", ["force", "explicit"])
def test_what_the_backward_pass_calls_is_redirected(way, place, policy, target):
    def work():
        x = torch.ones(4, device="cuda", requires_grad=True)
        way(x).sum().backward()
        return x.grad

    with torchdevice_mode.redirect(policy=policy):
        gradient = place(work)
        assert gradient.tolist() == [3.0] * 4 and gradient.device == target


def test_the_backward_pass_of_another_threads_graph_is_redirected(worker, target):
    with enabled():
        worker.ask(torch.cuda.is_available)
        x = torch.ones(4, device="cuda", requires_grad=True)
        loss = Scaled.apply(x).sum()
        worker.ask(loss.backward)
        assert x.grad.tolist() == [3.0] * 4 and x.grad.device == target


@pytest.mark.parametrize("way", ["hook", "custom backward", "checkpoint"])
def test_an_error_in_the_backward_pass_is_the_programs_own_and_leaves_torch_as_it_was(way):
    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, gradient):
            raise ZeroDivisionError("mine")

    def failing_when_recomputed(x):
        calls.append(x)
        return x.exp() if len(calls) == 1 else Failing.backward(None, x)

    def hook(gradient):
        raise ZeroDivisionError("mine")

    calls = []
    with torchdevice_mode.redirect():
        before = _get_current_function_mode_stack()
        x = torch.ones(2, device="cuda", requires_grad=True)
        if way == "hook":
            x.register_hook(hook)
            loss = (x * 2).sum()
        elif way == "custom backward":
            loss = Failing.apply(x).sum()
        else:
            loss = checkpoint(failing_when_recomputed, x, use_reentrant=False).sum()
        with pytest.raises(ZeroDivisionError, match="mine"):
            loss.backward()
        assert _get_current_function_mode_stack() == before
        assert not _get_current_dispatch_mode_stack()
        y = torch.ones(2, device="cuda", requires_grad=True)
        (y * 2).sum().backward()
        assert y.grad.tolist() == [2.0, 2.0]


# --- many at once -------------------------------------------------------------------------------


def run_all(*works):
    """Run functions in threads of their own; the first error of any is raised."""
    errors = []

    def guarded(work):
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_many_threads_enter_and_leave_at_once():
    @torchdevice_mode.redirect()
    def check():
        return is_redirected()

    def work():
        for _ in range(20):
            assert check()
            assert not is_redirected()

    run_all(*[work] * 8)


def counted(asked):
    return sum(e.count for e in _session.ledger.entries() if e.site.asked == asked)


def test_no_count_is_lost_when_many_threads_record():
    before = counted("hpu:1")

    def record():
        for _ in range(200):
            torch.device("hpu:1")

    with torchdevice_mode.redirect():
        run_all(*[record] * 8)
    assert counted("hpu:1") - before == 8 * 200


def test_enabling_disabling_and_redirecting_in_many_threads_at_once():
    blocks = threading.Barrier(6)

    def enable_and_disable():
        blocks.wait()
        for number in range(30):
            torchdevice_mode.enable(policy=("force", "explicit")[number % 2])
            time.sleep(random.random() / 1000)
            torchdevice_mode.disable()

    def redirect():
        blocks.wait()
        for number in range(60):
            policy = ("force", "explicit")[number % 2]
            with torchdevice_mode.redirect(policy=policy):
                x = torch.ones(2, device="cuda", requires_grad=True)
                (x * 2).sum().backward()
                assert _active.current().settings.policy == policy
                assert x.grad.tolist() == [2.0, 2.0]
                with torchdevice_mode.native():
                    assert torch.zeros(1).device.type == "cpu"

    def read():
        blocks.wait()
        for _ in range(60):
            _session.ledger.entries()
            torchdevice_mode.explain("cuda")

    run_all(enable_and_disable, enable_and_disable, redirect, redirect, redirect, read)
    torchdevice_mode.disable()
    assert not is_redirected()

"""What a process leaves to gloo's threads when it ends."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import sys
import threading
import time

import pytest
from installation import ROOT

from torchdevice_mode._shims.distributed import _settling

from .test_launching import PROGRAMS, SIMULATED

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows its threads")


def thread_of_gloo(work) -> threading.Thread:
    """A thread with the name that torch gives those of gloo."""
    named = threading.Event()

    def run_named() -> None:
        ctypes.CDLL(None).prctl(15, b"pt_gloo_runloop")  # PR_SET_NAME
        named.set()
        work()

    thread = threading.Thread(target=run_named)
    thread.start()
    named.wait()
    return thread


def compute() -> None:
    """Some tenths of a second in which other threads may run Python."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", 500_000)


@on_linux
@pytest.mark.parametrize("times", [1, 3], ids=["that computes", "that needs Python in between"])
def test_a_thread_that_runs_is_waited_for(times):
    thread = thread_of_gloo(lambda: [compute() for _ in range(times)])
    _settling.wait_until_at_rest()
    done = not thread.is_alive()
    thread.join()
    assert done


@on_linux
def test_a_thread_that_rests_is_not_waited_for():
    go = threading.Event()
    thread = thread_of_gloo(go.wait)
    try:
        _settling.wait_until_at_rest(longest=60)
        assert thread.is_alive()
    finally:
        go.set()
        thread.join()


@on_linux
def test_a_thread_that_runs_for_long_is_left_alone():
    stop = threading.Event()
    thread = thread_of_gloo(lambda: [compute() for _ in iter(stop.is_set, True)])
    try:
        _settling.wait_until_at_rest(longest=0.05)
        assert thread.is_alive()
    finally:
        stop.set()
        thread.join()


def test_other_threads_get_time_where_the_system_shows_none(monkeypatch, tmp_path):
    monkeypatch.setattr(_settling, "_TASKS", tmp_path / "none")
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    _settling.wait_until_at_rest()
    assert len(pauses) == 1


@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="preloads what cc makes"
)
def test_gloo_that_is_late_does_not_abort_a_process_that_ends(hooked, tmp_path):
    late = tmp_path / "late.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", late, PROGRAMS / "late.c", "-ldl"], check=True)
    # By the start-up hook, as `torchdevice run` has something to do after the program's end.
    done = hooked.execute(
        [PROGRAMS / "hurry.py", tmp_path / "group"],
        PYTHONPATH=str(ROOT / "src"),
        ACTIVATE_TORCH_DEVICE="1",
        LD_PRELOAD=str(late),
        **({"TORCHDEVICE_SIMULATE": SIMULATED} if SIMULATED else {"TORCHDEVICE_TARGET": "cpu"}),
    )
    assert (done.returncode, done.stdout) == (0, "[[1.0, 1.0]]\n"), done.stderr

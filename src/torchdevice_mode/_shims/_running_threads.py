"""A profile hook for threads that are running already, on each version of Python.

`threading.setprofile_all_threads` came with Python 3.12. Before it, what it calls is reached by
`ctypes`: `_PyEval_SetProfile` of Include/cpython/ceval.h takes the state of a thread since 3.9, and
debuggers attach that way.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["set_profile_in_others"]

_Profile = Callable[[Any, str, Any], None]


def set_profile_in_others(hook: _Profile) -> None:
    """Have every other running thread call a hook at its next event of profiling.

    Args:
        hook: As for `sys.setprofile`; it must take itself off, with `sys.setprofile(None)`. Before
            Python 3.12 it is given None for the frame and for the argument.
    """
    if hasattr(threading, "setprofile_all_threads"):
        for_new_threads = threading.getprofile()
        threading.setprofile_all_threads(hook)
        threading.setprofile(for_new_threads)
        sys.setprofile(None)
    else:
        _set_by_state(hook)


# int (*Py_tracefunc)(PyObject *, PyFrameObject *, int, PyObject *), called with the GIL held.
_TraceFunction = ctypes.PYFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p
)
# By hook. Threads may call them as long as the process runs, so they are kept.
_functions: dict[_Profile, Any] = {}


def _set_by_state(hook: _Profile) -> None:
    function = _functions.get(hook)
    if function is None:

        def call(self: Any, frame: Any, what: int, argument: Any) -> int:
            hook(None, "call", None)
            return 0

        function = _functions[hook] = _TraceFunction(call)
    python = ctypes.pythonapi
    for name in ("PyInterpreterState_Get", "PyThreadState_Get"):
        getattr(python, name).restype = ctypes.c_void_p
    for name in ("PyInterpreterState_ThreadHead", "PyThreadState_Next"):
        getattr(python, name).restype = ctypes.c_void_p
        getattr(python, name).argtypes = [ctypes.c_void_p]
    # No thread begins or ends while this one holds the GIL, which calls through `pythonapi` keep.
    own = python.PyThreadState_Get()
    state = python.PyInterpreterState_ThreadHead(python.PyInterpreterState_Get())
    while state:
        if state != own:
            python._PyEval_SetProfile(ctypes.c_void_p(state), function, None)
        state = python.PyThreadState_Next(state)

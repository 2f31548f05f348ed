"""The simulated accelerator: a real `mps` or `cuda` device on a Linux machine with a compiler.

PyTorch finds the device in the registries that it keeps for its Metal or CUDA backend, so
everything above them is PyTorch's own: autograd, modules, optimizers, autocast, `torch.mps`,
checkpoints. Operators run the CPU's kernels on the device's memory. It fails where the device
fails: no float64 on Metal, operands on different devices, memory that runs out, operators that
are missing. It is not fast, and it says nothing about the device's numerics.

    from torchdevice_mode import simulate
    simulate.load()

Load it before anything asks torch about the device; it stays for the life of the process, which
has one simulated device.
"""

from __future__ import annotations

import atexit
import ctypes
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields

from ..errors import SimulatorError
from ._build import library_path
from ._compile import compile_without_inductor
from ._gaps import REAL_GAPS_2_13
from ._visible import make_storages, make_visible

__all__ = [
    "REAL_GAPS_2_13",
    "Counters",
    "counters",
    "counting",
    "is_loaded",
    "load",
    "loaded_device",
    "macos_version",
    "memory_limit",
    "missing_operators",
    "refusals",
    "without_refusals",
]

# Where torch keeps kernels that call other operators and so serve every device.
_COMPOSITE = (
    "CompositeImplicitAutograd",
    "CompositeExplicitAutograd",
    "CompositeExplicitAutogradNonFunctional",
)
_DEVICES = ("mps", "cuda")
_library: ctypes.CDLL | None = None
_device: str | None = None
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Counters:
    """What the device has done since it was loaded; differences are what tests look at.

    Attributes:
        synchronizations: How often the host waited: `.item()`, copies to the host, and
            `torch.mps.synchronize()` or `torch.cuda.synchronize()`.
        copies_to_device: Copies from the host.
        copies_from_device: Copies to the host.
        copies_on_device: Copies within the device.
        bytes_to_device: Bytes of the first.
        bytes_from_device: Bytes of the second.
        allocations: Blocks of memory taken.
        frees: Blocks given back.
        operators: Operators run.
    """

    synchronizations: int = 0
    copies_to_device: int = 0
    copies_from_device: int = 0
    copies_on_device: int = 0
    bytes_to_device: int = 0
    bytes_from_device: int = 0
    allocations: int = 0
    frees: int = 0
    operators: int = 0

    def __sub__(self, earlier: Counters) -> Counters:
        return Counters(
            *(getattr(self, f.name) - getattr(earlier, f.name) for f in fields(Counters))
        )


class Counting:
    """What the device did in a `counting()` block, so far or until its end."""

    def __init__(self) -> None:
        self._start = counters()
        self._end: Counters | None = None

    def __getattr__(self, name: str) -> int:
        return int(getattr((self._end or counters()) - self._start, name))


def load(device: str = "mps") -> None:
    """Make this process have a simulated device; does nothing where it has it already.

    The first call on a machine compiles the device, which takes about 15 seconds; the result is
    kept in the user's cache directory for this version of torch.

    Args:
        device: `"mps"` or `"cuda"`; a process has one of them.

    Raises:
        SimulatorError: If the device is another, the process has the other one, the platform is
            not Linux, there is no C++ compiler, torch finds a GPU, it was asked about MPS before,
            or it is built for CUDA and the device is `"cuda"`.
    """
    global _library, _device
    if device not in _DEVICES:
        raise SimulatorError(
            f"There is no simulated {device!r}: the devices to simulate are 'mps' and 'cuda'."
        )
    if sys.platform == "linux":
        # Before the lock is taken: what waits for this import, such as the start-up hook, may
        # load the device, too.
        import torch  # noqa: F401
    with _lock:
        if _library is not None:
            if device != _device:
                raise SimulatorError(
                    f"This process simulates {_device!r} and cannot simulate {device!r} as well: "
                    f"use another process."
                )
            return
        if sys.platform != "linux":
            raise SimulatorError(
                f"The simulated accelerator runs on Linux, not on {sys.platform}: use the "
                f"machine's own device, or leave the simulation out."
            )
        _check_no_gpu()
        if device == "cuda":
            _check_cpu_build()
        library = ctypes.CDLL(str(library_path(device)))
        library.simulated_counter.restype = ctypes.c_int64
        library.simulated_limit_memory.restype = ctypes.c_int64
        library.simulated_limit_memory.argtypes = [ctypes.c_int64]
        library.simulated_refusal.restype = ctypes.c_char_p
        if device == "cuda":
            # It derives classes from torch's, so it is imported when torch is there anyway.
            from . import _cuda

            _cuda.make_visible(library)
        else:
            _check_found()
            make_visible(library)
        make_storages(device)
        compile_without_inductor(device)
        atexit.register(library.simulated_wait_for_autograd)
        _library, _device = library, device


def is_loaded() -> bool:
    """Whether this process has a simulated device."""
    return _library is not None


def loaded_device() -> str | None:
    """The type of the simulated device that this process has; None if it has none."""
    return _device


def counters() -> Counters:
    """What the device has done since it was loaded."""
    library = _loaded()
    return Counters(*(library.simulated_counter(i) for i, _ in enumerate(fields(Counters))))


@contextmanager
def counting() -> Iterator[Counting]:
    """Count what the device does in a block.

    Yields:
        An object with the attributes of `Counters`, which stand still when the block ends.
    """
    counts = Counting()
    try:
        yield counts
    finally:
        counts._end = counters()


def memory_limit(limit: int) -> AbstractContextManager[None]:
    """Let the device run out of memory beyond a number of bytes, as the real one does.

    Args:
        limit: Bytes that all tensors of the device together may take.

    Returns:
        A context manager.
    """
    return _holding("simulated_limit_memory", limit)


def macos_version(major: int, minor: int = 0) -> AbstractContextManager[None]:
    """Let the device refuse what it refuses on an older macOS; otherwise it is macOS 26.

    Args:
        major: Such as 14 for macOS 14.4.
        minor: Such as 4.

    Returns:
        A context manager.
    """
    return _holding("simulated_set_macos", 100 * major + minor)


def refusals() -> list[str]:
    """What Metal says where it refuses a dtype, a shape or an option; one text for each."""
    library = _loaded()
    texts: list[str] = []
    while (text := library.simulated_refusal(len(texts))) is not None:
        texts.append(text.decode())
    return texts


def without_refusals() -> AbstractContextManager[None]:
    """Let the device compute what Metal refuses, such as complex matrices in `torch.linalg`.

    Blocks may be nested. Missing operators, dtypes that cannot be stored and operands on different
    devices are refused all the same.

    Returns:
        A context manager.
    """
    return _holding("simulated_set_refusing", False)


@contextmanager
def missing_operators(names: Iterable[str]) -> Iterator[None]:
    """Take operators away: calling them raises what the real device raises.

    An operator that the device lacks anyway may be named too, and one of `REAL_GAPS_2_13` that an
    older torch does not have. Blocks may be nested.

    Args:
        names: Operators such as `"aten::linalg_eig"` or `"linalg_eig"`, for all overloads, or
            with one overload: `"aten::add.out"`.

    Raises:
        SimulatorError: If torch has no such operator, or makes it of other operators.
    """
    if isinstance(names, str):
        names = [names]
    _loaded()
    taken: list[str] = []
    try:
        for name in names:
            taken += _take_away(name)
        yield
    finally:
        for operator in taken:
            _set_missing(operator, False)


def _take_away(name: str) -> list[str]:
    """Take all overloads of an operator away; returns those that were there to be taken."""
    import torch

    wanted = "aten::" + name.removeprefix("aten::")
    overloads = [
        found
        for found in torch._C._dispatch_get_all_op_names()
        if found == wanted or ("." not in wanted and found.partition(".")[0] == wanted)
    ]
    if not overloads and wanted in REAL_GAPS_2_13:
        return []  # an older torch
    if not overloads:
        raise SimulatorError(
            f"torch has no operator {name!r}, so it cannot be taken away: name an operator such "
            f"as 'aten::linalg_eig'."
        )
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    if all(any(has(found, key) for key in _COMPOSITE) for found in overloads):
        raise SimulatorError(
            f"torch makes {name!r} of other operators on every device, so it cannot be missing: "
            f"name what it is made of, such as its overload '.out'."
        )
    return [found for found in overloads if _set_missing(found, True)]


@contextmanager
def _holding(setter: str, value: int) -> Iterator[None]:
    """Hold a value of the device in a block; its setters return what held before."""
    set_value = getattr(_loaded(), setter)
    before = set_value(value)
    try:
        yield
    finally:
        set_value(before)


def _set_missing(name: str, missing: bool) -> bool:
    """Take one overload away or give it back; returns whether that changed anything."""
    operator, _, overload = name.partition(".")
    return bool(_loaded().simulated_set_missing(operator.encode(), overload.encode(), missing))


def _loaded() -> ctypes.CDLL:
    if _library is None:
        raise SimulatorError("The simulated device is not loaded: call simulate.load() first.")
    return _library


def _check_no_gpu() -> None:
    import torch

    # Past `torch.cuda`, which redirection may answer for.
    if getattr(torch._C, "_cuda_getDeviceCount", int)() > 0:
        raise SimulatorError(
            "torch finds a GPU here and has one accelerator at most, so none can be simulated: "
            "set CUDA_VISIBLE_DEVICES to nothing, which hides the GPU."
        )


def _check_cpu_build() -> None:
    import torch

    if hasattr(torch._C, "_cuda_getDeviceCount"):
        raise SimulatorError(
            f"torch {torch.__version__} is built for CUDA, whose place the simulated device would "
            f"take: use a CPU build of torch to simulate it."
        )


def _check_found() -> None:
    import torch

    if not torch._C._mps_is_available():
        raise SimulatorError(
            "Something asked torch about MPS before the simulated device was loaded: call "
            "simulate.load() earlier."
        )

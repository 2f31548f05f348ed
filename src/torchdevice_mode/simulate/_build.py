"""Compiles the simulated device once for each version of torch, and finds it again."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from ..errors import SimulatorError

__all__ = ["library_path"]

_HERE = Path(__file__).parent
# `kernels.cpp` last: it fills the places that the others leave.
_SOURCES = (
    *("device.cpp", "events.cpp", "leaving.cpp", "memory.cpp", "missing.cpp", "operands.cpp"),
    *("refusals.cpp", "kernels.cpp"),
)
# What differs between devices: a source, and the macro that the others look at.
_OWN = {"mps": ("mps.cpp", "-DSIMULATE_MPS"), "cuda": ("cuda.cpp", "-DSIMULATE_CUDA")}
_HEADERS = ("call.h", "device.h", "metal_operators.h")
_FLAGS = ("-std=c++20", "-O2", "-g0", "-shared", "-fPIC", "-w")


def library_path(device: str) -> Path:
    """The compiled device, compiled now if it was not before.

    Args:
        device: `"mps"` or `"cuda"`.

    Returns:
        The path of a shared library.

    Raises:
        SimulatorError: If there is no C++ compiler, or it fails.
    """
    import torch

    key = hashlib.sha256(f"{torch.__version__} {platform.machine()} ".encode())
    own, macro = _OWN[device]
    flags, sources = (*_FLAGS, macro), (*_SOURCES, own)
    key.update(" ".join(flags).encode())
    for name in (*sources, *_HEADERS):
        key.update((_HERE / name).read_bytes())
    library = _cache_directory() / f"{device}-{key.hexdigest()[:16]}.so"
    if library.exists():
        return library
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with (library.parent / "lock").open("w") as lock:
            # Another process may be compiling the same; wait for it rather than do it twice.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not library.exists():
                _compile(library, Path(torch.__file__).parent, flags, sources)
    except OSError as error:
        raise SimulatorError(
            f"The simulated device cannot be kept in {library.parent} ({error.strerror}): set "
            f"TORCHDEVICE_CACHE to a directory that can be written to."
        ) from error
    return library


def _cache_directory() -> Path:
    chosen = os.environ.get("TORCHDEVICE_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "torchdevice"


def _compiler() -> list[str]:
    named = os.environ.get("CXX")
    candidates = [named] if named else ["c++", "g++", "clang++"]
    for candidate in candidates:
        command = shlex.split(candidate)
        if command and shutil.which(command[0]):
            return command
    raise SimulatorError(
        f"The simulated accelerator needs a C++ compiler and found none "
        f"({', '.join(candidates)}): install g++, or name a compiler in CXX."
    )


def _compile(library: Path, torch: Path, flags: tuple[str, ...], sources: tuple[str, ...]) -> None:
    compiler = _compiler()
    # Written beside its place and renamed, so that nobody ever loads half a library.
    handle, name = tempfile.mkstemp(dir=library.parent, suffix=".so")
    os.close(handle)
    command = [
        *compiler,
        *flags,
        f"-I{torch / 'include'}",
        f"-I{torch / 'include/torch/csrc/api/include'}",
        "-x",
        "c++",
        "-",
        f"-L{torch / 'lib'}",
        "-ltorch_cpu",
        "-lc10",
        "-o",
        name,
    ]
    # As one unit, since reading torch's headers takes longer than all that comes after them.
    unit = "".join(f'#include "{_HERE / source}"\n' for source in sources)
    result = subprocess.run(command, input=unit, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        Path(name).unlink(missing_ok=True)
        first = next((line for line in result.stderr.splitlines() if "error" in line), "no message")
        raise SimulatorError(
            f"The C++ compiler {compiler[0]!r} could not build the simulated accelerator: {first}"
        )
    Path(name).rename(library)

"""Files as plain torch writes them on CUDA, made on a machine without it."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

import torchdevice_mode


@contextmanager
def as_if_on_cuda(place="cuda:1"):
    """Plain torch, which tags the storages that it writes as those of a CUDA device."""
    packages = torch.serialization._package_registry
    with torchdevice_mode.native():
        torch.serialization.register_package(0, lambda storage: place, lambda *_: None)
        added = packages[0]
        try:
            yield
        finally:
            packages.remove(added)


def write_new(thing, **options):
    file = io.BytesIO()
    torch.save(thing, file, **options)
    return file.getvalue()


def write_legacy(thing):
    return write_new(thing, _use_new_zipfile_serialization=False)


def read(data, **options):
    return torch.load(io.BytesIO(data), **{"weights_only": False, **options})


# Nothing of torchdevice is imported but the simulated device, which is not redirected.
_PLAIN = """
import sys, torch
folder, machine = sys.argv[1:]
if machine != "cpu":
    from torchdevice_mode import simulate
    simulate.load(machine)
    assert torch.ones(1, device=machine).device.type == machine
"""


def needs_other_machine(machine, target):
    """Skip a test of files that plain torch reads on a machine that cannot be had, or is like it.

    Args:
        machine: The device that the machine has: `"cpu"`, `"mps"` or `"cuda"`.
        target: The device that the files are written on.
    """
    if machine != "cpu" and target.type == "cpu":
        pytest.skip("what lies on the CPU is saved as the CPU's")
    if machine == "cuda" and torch.version.cuda is not None:
        pytest.skip("this torch is built for CUDA, which cannot be simulated then")


def read_by_plain_torch(reader, folder, machine):
    """What a program prints that reads files in plain torch, elsewhere.

    Args:
        reader: The program; it finds `torch`, `folder` and `machine`.
        folder: Where the files are.
        machine: The device that the machine has: `"cpu"`, `"mps"` or `"cuda"`.
    """
    done = subprocess.run(
        [sys.executable, "-c", _PLAIN + reader, str(folder), machine],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FORMATS = {
    "new": (write_new, read),
    "legacy": (write_legacy, read),
    "pickle": (pickle.dumps, pickle.loads),
}

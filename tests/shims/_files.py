"""Files as plain torch writes them on CUDA, made on a machine without it."""

from __future__ import annotations

import io
import pickle
from contextlib import contextmanager

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


FORMATS = {
    "new": (write_new, read),
    "legacy": (write_legacy, read),
    "pickle": (pickle.dumps, pickle.loads),
}

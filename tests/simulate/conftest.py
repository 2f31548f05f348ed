"""Imports torch's own test databases without what they do to torch for everybody else."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest
import torch

from torchdevice_mode import simulate

if simulate.is_loaded():
    # Importing them freezes the flags of `torch.backends` in the whole process.
    with mock.patch.object(torch.backends, "disable_global_flags", lambda: None):
        import torch.testing._internal.common_utils


@pytest.fixture(scope="module")
def metal_refuses_nothing() -> Iterator[None]:
    """For tests that compare kernels; what is refused is the subject of `test_refusals.py`."""
    with simulate.without_refusals():
        yield

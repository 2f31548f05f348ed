"""Imports torch's own test databases without what they do to torch for everybody else."""

from __future__ import annotations

from unittest import mock

import torch

from torchdevice_mode import simulate

if simulate.is_loaded():
    # Importing them freezes the flags of `torch.backends` in the whole process.
    with mock.patch.object(torch.backends, "disable_global_flags", lambda: None):
        import torch.testing._internal.common_utils

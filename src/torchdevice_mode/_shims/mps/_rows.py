"""Every row of torch.mps and torch.backends.mps: importing this fills the tables."""

from __future__ import annotations

from . import _device, _event, _memory, _random, _tools  # noqa: F401

__all__: list[str] = []

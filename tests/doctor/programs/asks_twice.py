# verdict: will fail at 8
"""Raises on its own where the package is not there."""

import torch

print(torch.zeros(2).cuda())
try:
    import xformers.ops
except ImportError as error:
    raise SystemExit("install xformers") from error

# verdict: will fail at 7
"""Ends itself on an older device."""

import torch

if torch.cuda.get_device_capability()[0] < 8:
    raise RuntimeError("needs Ampere or later")

# verdict: will fail at 5
"""Needs a package that is not there."""

import torch
from flash_attn import flash_attn_func

flash_attn_func(torch.zeros(1).cuda())

# verdict: runs with notes
"""Packages and kernels that are used where they are there."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch.utils.cpp_extension import CUDA_HOME

if TYPE_CHECKING:
    import xformers

try:
    from flash_attn import flash_attn_func

    HAS_FLASH = True
except ImportError:
    flash_attn_func = None
    HAS_FLASH = False

HAS_APEX = find_spec("apex") is not None
if HAS_APEX:
    from apex.normalization import FusedLayerNorm as LayerNorm
else:
    LayerNorm = torch.nn.LayerNorm

if torch.version.cuda is not None and int(torch.version.cuda.split(".")[0]) >= 12:
    torch.cuda._compile_kernel("", "")
if CUDA_HOME:
    import kernels_of_its_own
if torch.cuda.device_count() > 1:
    torch.cuda.nccl.all_reduce([torch.zeros(2).cuda()])
major, minor = torch.cuda.get_device_capability()
if major >= 8:
    import triton


def attention(q, k, v):
    if HAS_FLASH:
        import flash_attn_interface

        return flash_attn_interface.flash_attn_func(q, k, v)
    return torch.nn.functional.scaled_dot_product_attention(q, k, v)


q = LayerNorm(4).cuda()(torch.randn(1, 2, 3, 4, device="cuda"))
assert attention(q, q, q).shape == q.shape
assert flash_attn_func is None

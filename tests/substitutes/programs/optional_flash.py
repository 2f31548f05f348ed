"""A model that takes flash_attn where it is there, and writes attention out where it is not."""

import torch

try:
    from flash_attn import flash_attn_func
except ImportError:
    flash_attn_func = None

q, k, v = (torch.ones(1, 4, 2, 8, device="cuda", dtype=torch.float16) for _ in "qkv")
if flash_attn_func is None:
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
else:
    out = flash_attn_func(q, k, v, causal=True)
print("flash_attn" if flash_attn_func else "plain", out.sum().item())

"""Attention of an image model, by xformers where it is there, as programs choose it."""

import importlib.util

import torch
from torch import nn

if importlib.util.find_spec("xformers") is not None:
    import xformers
    import xformers.ops
else:
    xformers = None


class Attention(nn.Module):
    def __init__(self, dim, heads, use_xformers):
        super().__init__()
        self.heads, self.use_xformers = heads, use_xformers
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = self.to_qkv(x).chunk(3, -1)
        # (batch, tokens, dim) to (batch * heads, tokens, dim of a head), as diffusers does.
        split = [t.unflatten(-1, (self.heads, -1)).transpose(1, 2).flatten(0, 1) for t in (q, k, v)]
        if self.use_xformers:
            out = xformers.ops.memory_efficient_attention(*split, attn_bias=None)
        else:
            q, k, v = split
            out = (q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1) @ v
        return self.to_out(out.unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(2))


assert xformers is not None, "no xformers"
# diffusers asks so whether it works.
_ = xformers.ops.memory_efficient_attention(*(torch.randn(1, 2, 40, device="cuda"),) * 3)
results = []
for use_xformers in (False, True):
    torch.manual_seed(0)
    model = Attention(32, 4, use_xformers).cuda()
    x = torch.randn(2, 16, 32, device="cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        loss = (model(x) - x).square().mean()
        loss.backward()
        optimizer.step()
    results.append(loss.item())
assert abs(results[0] - results[1]) < 1e-5, results
print("same")

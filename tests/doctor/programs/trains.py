# verdict: runs unmodified
"""A training step as CUDA programs write it, by every spelling of the same few calls."""

import argparse

import torch
import torch.cuda as c
from torch import cuda
from torch.cuda import amp, synchronize
from torch.nn import DataParallel

parser = argparse.ArgumentParser()
parser.add_argument("--device", default="cuda:0", choices=["cuda:0", "cpu"])
options = parser.parse_args()

assert torch.cuda.is_available(), "no GPU"
if not cuda.is_available():
    raise SystemExit("no GPU")
torch.backends.cudnn.benchmark = True
torch.backends.cuda.matmul.allow_tf32 = True
c.set_device(0)
c.manual_seed_all(0)

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model = DataParallel(torch.nn.Linear(8, 2)).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = amp.GradScaler()
start, end = c.Event(enable_timing=True), c.Event(enable_timing=True)
start.record()


@torch.autocast("cuda", dtype=torch.bfloat16)
def loss_of(x):
    c.nvtx.range_push("forward")
    loss = model(x).float().square().mean()
    c.nvtx.range_pop()
    return loss


for index in range(2):
    batch = torch.randn(4, 8).to(f"cuda:{0}") + torch.zeros(8, device=options.device)
    scaler.scale(loss_of(batch)).backward()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
end.record()
synchronize()
assert start.elapsed_time(end) >= 0
assert batch.is_cuda and batch.type() == "torch.cuda.FloatTensor"
assert isinstance(batch, torch.cuda.FloatTensor)
assert torch.cuda.max_memory_allocated() >= 0

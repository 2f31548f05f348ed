"""A CUDA program whose end lets no other thread run Python."""

import atexit
import sys
import time


@atexit.register  # first, so what it does comes last
def keep_python() -> None:
    sys.setswitchinterval(1000)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        pass


import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

dist.init_process_group("nccl", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
model = DistributedDataParallel(torch.nn.Linear(2, 1).cuda(), device_ids=[0])
model(torch.ones(1, 2).cuda()).sum().backward()
print(model.module.weight.grad.tolist())

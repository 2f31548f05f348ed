"""A CUDA program that starts its own processes."""

import os
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel


def work(rank: int, size: int, path: str) -> None:
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    os.environ["MASTER_PORT"] = "0"
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", init_method=f"file://{path}.store", rank=rank, world_size=size)
    model = torch.nn.Linear(2, 1, bias=False).to(rank)
    with torch.no_grad():
        model.weight.fill_(rank + 1)  # DDP takes those of rank 0
    model = DistributedDataParallel(model, device_ids=[rank])
    model(torch.full((1, 2), rank + 1.0, device=rank)).sum().backward()
    if rank == 0:
        weight, grad = model.module.weight, model.module.weight.grad
        print(weight.device.type, weight.tolist(), grad.tolist(), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(work, args=(2, sys.argv[1]), nprocs=2)

"""A CUDA program that `torchrun` starts: data parallel training, as tutorials write it."""

import os
import signal
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler


def main(path: str, killed: int = -1) -> None:
    local_rank = int(os.environ["LOCAL_RANK"])
    assert torch.cuda.is_available()
    assert local_rank < torch.cuda.device_count()
    torch.cuda.set_device(local_rank)
    device = torch.device("cuda", local_rank)
    dist.init_process_group(backend="nccl", device_id=device)
    rank, size = dist.get_rank(), dist.get_world_size()
    if dist.get_backend() != "nccl":
        raise SystemExit("this program needs NCCL")

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)).to(device)
    model = DistributedDataParallel(model, device_ids=[local_rank], output_device=local_rank)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(32, 6, generator=generator), torch.ones(32, 1))
    sampler = DistributedSampler(data, shuffle=False)
    loader = DataLoader(data, batch_size=8 // size, sampler=sampler, pin_memory=True)
    seen = torch.zeros(1, device=device)
    for step, (inputs, targets) in enumerate(loader):
        if step == 2 and rank == killed:
            os.kill(os.getpid(), signal.SIGKILL)
        inputs = inputs.cuda(non_blocking=True)
        targets = targets.cuda(non_blocking=True)
        loss = nn.functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        seen += len(inputs)
    dist.all_reduce(seen)
    if rank == 0:
        state = {name: value.cpu() for name, value in model.module.state_dict().items()}
        torch.save({"state": state, "seen": seen.item(), "device": str(device)}, path)
    dist.barrier(device_ids=[local_rank])
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))

# verdict: will fail at 8
"""Calls NCCL past torch.distributed."""

import torch


def reduce(tensors):
    torch.cuda.nccl.all_reduce(tensors)


if __name__ == "__main__":
    reduce([torch.ones(2).cuda()])

# verdict: will fail at 1 of kernels/__init__.py
import torch
from kernels import twice

print(twice(torch.ones(2).cuda()))

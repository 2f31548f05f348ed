# verdict: runs unmodified
import torch

print(torch.ones(2).cuda() * 2)

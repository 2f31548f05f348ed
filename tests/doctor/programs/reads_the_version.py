# verdict: will fail at 6
"""Takes the version of CUDA for text."""

import torch

major = int(torch.version.cuda.split(".")[0])

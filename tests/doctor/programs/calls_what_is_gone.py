# verdict: will fail at 6
"""Uses a name that no torch has."""

import torch

torch.cuda.no_such_function()

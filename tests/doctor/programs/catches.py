# verdict: runs with notes
"""What fails here is caught."""

import contextlib
import ctypes
import os
import subprocess

import torch

os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
os.environ.setdefault("CUDA_LAUNCH_BLOCKING", "1")

try:
    used = subprocess.check_output(["nvidia-smi", "--query-gpu=memory.used"], text=True)
except (OSError, subprocess.CalledProcessError):
    used = "0"
try:
    library = ctypes.CDLL("libcudart.so.12")
except OSError:
    library = None
with contextlib.suppress(NotImplementedError):
    torch.cuda.nccl.all_reduce([torch.zeros(2).cuda()])
try:
    torch.cuda.current_blas_handle()
except RuntimeError as error:
    assert "current_blas_handle" in str(error)
assert torch.zeros(2, device="cuda:3").is_cuda

# verdict: will fail at 7
"""Starts a tool of NVIDIA's."""

import subprocess

print("devices:")
print(subprocess.check_output(["nvidia-smi", "-L"], text=True))

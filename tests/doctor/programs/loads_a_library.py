# verdict: will fail at 6
"""Loads CUDA's runtime by its name."""

import ctypes

runtime = ctypes.CDLL("libcudart.so.12")

# verdict: will fail at 8
"""Compiles CUDA source when it starts."""

from torch.utils import cpp_extension

SOURCE = "__global__ void twice(float* x) { x[threadIdx.x] *= 2; }"

cpp_extension.load_inline("twice", cpp_sources="", cuda_sources=SOURCE, functions=["twice"])

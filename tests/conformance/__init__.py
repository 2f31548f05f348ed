"""PyTorch's own databases as CUDA code, redirected, beside plain runs on the CPU."""

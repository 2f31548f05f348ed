"""torch.backends.cuda and torch.backends.cudnn: flags and queries of CUDA's libraries."""

from __future__ import annotations

import pytest
import torch

from torchdevice_mode import redirect

cuda = torch.backends.cuda


def test_packages_that_ask_for_a_cuda_build_are_told_the_truth():
    # Triton and others would otherwise look for NVIDIA's driver.
    before = cuda.is_built(), torch.version.cuda
    with redirect():
        assert (cuda.is_built(), torch.version.cuda) == before


@pytest.mark.usefixtures("redirected")
@pytest.mark.parametrize(
    "name", ["can_use_flash_attention", "can_use_efficient_attention", "can_use_cudnn_attention"]
)
def test_no_attention_kernel_of_cuda_can_be_used(name):
    q = torch.zeros(1, 1, 4, 8, device="cuda")
    parameters = cuda.SDPAParams(q, q, q, None, 0.0, False, False)
    assert getattr(cuda, name)(parameters, debug=True) is False


@pytest.mark.usefixtures("redirected")
@pytest.mark.skipif(not hasattr(cuda, "cublas_workspace_size"), reason="another torch")
def test_workspace_sizes_are_remembered():
    before = cuda.cublas_workspace_size()
    try:
        assert cuda.cublas_workspace_size(1 << 20) == 1 << 20
        assert cuda.blas_workspace_size(backend="cublas") == 1 << 20
        assert cuda.blas_workspace_size() == 1 << 20
    finally:
        cuda.cublas_workspace_size(before)
    with pytest.raises(RuntimeError, match="Unknown backend string"):
        cuda.blas_workspace_size(backend="none")


def test_what_a_program_sets_in_cudnn_stays_after_redirection():
    before = torch.backends.cudnn.benchmark
    try:
        with redirect():
            torch.backends.cudnn.benchmark = not before
        assert torch.backends.cudnn.benchmark is not before
    finally:
        torch.backends.cudnn.benchmark = before

"""Flags and queries of CUDA's libraries: `torch.backends.cuda` and `torch.backends.cudnn`.

Most are flags that torch keeps on every machine, so that they are remembered without an answer
of ours. What is answered here would reach a library that this torch or this machine lacks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.backends.cuda
import torch.backends.cudnn
import torch.backends.cudnn.rnn

from ._module import module_patches
from ._surface import Surface

__all__ = ["CUDA_LIBRARIES", "CUDNN", "PATCHES"]

CUDA_LIBRARIES = Surface("torch.backends.cuda", "cuda")
CUDNN = Surface("torch.backends.cudnn", "cuda")


# --- torch.backends.cuda ------------------------------------------------------------------------

CUDA_LIBRARIES.native(
    "matmul",
    "cuBLASModule",
    "flash_sdp_enabled",
    "enable_flash_sdp",
    "mem_efficient_sdp_enabled",
    "enable_mem_efficient_sdp",
    "math_sdp_enabled",
    "enable_math_sdp",
    "cudnn_sdp_enabled",
    "enable_cudnn_sdp",
    "allow_fp16_bf16_reduction_math_sdp",
    "fp16_bf16_reduction_math_sdp_allowed",
    "preferred_rocm_fa_library",
    "sdp_kernel",
    reason="flags that torch keeps on every machine",
)
CUDA_LIBRARIES.native(
    "is_built",
    "is_flash_attention_available",
    "is_ck_sdpa_available",
    reason="whether this torch was built with it",
)
CUDA_LIBRARIES.native(
    "SDPAParams",
    "SDPBackend",
    "cuFFTPlanCache",
    "cuFFTPlanCacheAttrContextProp",
    "cuFFTPlanCacheManager",
    reason="definitions",
)


def _no_kernel(name: str) -> None:
    @CUDA_LIBRARIES.emulated(name, "the kernel exists for CUDA alone")
    def can_use(params: Any, debug: bool = False) -> bool:
        return False


for _name in ("can_use_flash_attention", "can_use_efficient_attention", "can_use_cudnn_attention"):
    _no_kernel(_name)


def _preference(choices: dict[str, Any], original: Callable[..., Any]) -> Callable[[Any], Any]:
    """A preference for a library that is not there: checked and remembered."""
    chosen: list[Any] = []

    def prefer(backend: Any) -> Any:
        if isinstance(backend, str) and backend in choices:
            chosen[:] = [choices[backend]]
        elif backend in choices.values():
            chosen[:] = [backend]
        elif backend is not None:
            return original(backend)  # torch's error
        return chosen[0] if chosen else original()

    return prefer


_prefer_linalg = _preference(
    torch.backends.cuda._LinalgBackends, torch.backends.cuda.preferred_linalg_library
)
_prefer_blas = _preference(
    torch.backends.cuda._BlasBackends, torch.backends.cuda.preferred_blas_library
)


@CUDA_LIBRARIES.emulated("preferred_linalg_library", "remembered; the target has its own library")
def preferred_linalg_library(backend: Any = None) -> Any:
    return _prefer_linalg(backend)


@CUDA_LIBRARIES.emulated("preferred_blas_library", "remembered; the target has its own library")
def preferred_blas_library(backend: Any = None) -> Any:
    return _prefer_blas(backend)


# What CUDA takes on most of its devices, in bytes.
_workspaces = {"cublas": 8519680, "cublaslt": 1048576}


def _workspace(library: str, size: int | None) -> int:
    if size is not None:
        if not isinstance(size, int) or isinstance(size, bool):
            raise TypeError(f"size must be an int or None, but got {type(size).__name__}")
        if size < 0:
            raise RuntimeError(f"{library} workspace size must be non-negative, but got {size}")
        _workspaces[library] = size
    return _workspaces[library]


if hasattr(torch.backends.cuda, "cublas_workspace_size"):  # from torch 2.13 on

    @CUDA_LIBRARIES.emulated("cublas_workspace_size", "remembered; no such workspace is needed")
    def cublas_workspace_size(size: int | None = None) -> int:
        return _workspace("cublas", size)

    @CUDA_LIBRARIES.emulated("cublaslt_workspace_size", "remembered; no such workspace is needed")
    def cublaslt_workspace_size(size: int | None = None) -> int:
        return _workspace("cublaslt", size)

    @CUDA_LIBRARIES.emulated("blas_workspace_size", "remembered; no such workspace is needed")
    def blas_workspace_size(size: int | None = None, backend: Any = None) -> int:
        library = _prefer_blas(None) if backend is None else backend
        if isinstance(library, str):
            library = torch.backends.cuda._BlasBackends.get(library, library)
        if isinstance(library, str):
            choices = ", ".join(torch.backends.cuda._BlasBackends)
            raise RuntimeError(f"Unknown backend string. Choose from: {choices}.")
        if not isinstance(library, torch._C._BlasBackend):
            raise RuntimeError("Unknown backend type.")
        if library == torch._C._BlasBackend.Ck:
            raise RuntimeError("CK backend does not use a workspace.")
        is_lt = library == torch._C._BlasBackend.Cublaslt
        return _workspace("cublaslt" if is_lt else "cublas", size)


class _PlanCache:
    """The plan cache of cuFFT: accepts its limit and holds nothing."""

    size = 0

    def __init__(self) -> None:
        self.max_size = 4096

    def clear(self) -> None:
        """Nothing to clear."""

    def __getitem__(self, device: Any) -> _PlanCache:
        from .cuda._index import count, exists, index_of

        if not exists(index_of(device)):
            raise RuntimeError(
                f"cufft_plan_cache: expected 0 <= device index < {count()}, but got "
                f"device with index {device}"
            )
        return self


_plan_cache = _PlanCache()


@CUDA_LIBRARIES.emulated("cufft_plan_cache", "takes a limit and holds no plans", computed=True)
def cufft_plan_cache() -> _PlanCache:
    return _plan_cache


# --- torch.backends.cudnn -----------------------------------------------------------------------

CUDNN.native(
    "enabled",
    "deterministic",
    "benchmark",
    "benchmark_limit",
    "allow_tf32",
    "fp32_precision",
    "conv",
    "depthwise_kernel",
    "rnn.fp32_precision",
    "flags",
    "set_flags",
    reason="flags that torch keeps on every machine",
)
CUDNN.native(
    "is_available", "is_acceptable", reason="cuDNN is used by CUDA alone; torch asks this itself"
)
CUDNN.native(
    "CUDNN_TENSOR_DTYPES",
    "CudnnModule",
    "rnn.ContextProp",
    "rnn.CudnnRNNModule",
    reason="definitions",
)
CUDNN.native(
    "rnn.get_cudnn_mode",
    "rnn.Unserializable",
    "rnn.init_dropout_state",
    reason="torch's own tools for cuDNN's layers, which no other device uses",
)


@CUDNN.emulated("version", "0 without cuDNN, since programs compare it with a number")
def version() -> int:
    # With a CUDA build torch would compare its cuDNN with the capability that is emulated.
    return 0


PATCHES = (*module_patches(CUDA_LIBRARIES), *module_patches(CUDNN))

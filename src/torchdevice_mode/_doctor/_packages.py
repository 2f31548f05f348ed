"""Packages that need CUDA: what of them fails without, why, and how indexes name them.

`torchdevice_mode._packages` lists those that a run says something about, and what to do; its
advice is taken over. Here are more of them, as a syntax tree does not tell which are missing.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .. import _packages as told_in_a_run
from .._substitutes._held import has

__all__ = ["PACKAGES", "Package", "advice", "by_import", "by_requirement"]


class Package(NamedTuple):
    """A row.

    Attributes:
        name: Dotted name by which it is imported.
        needs: "cuda" if it cannot be imported without CUDA, "parts" if parts of it then fail.
        reason: What it needs CUDA for, to follow "because".
        instead: What to do, as an imperative; empty where a run says it.
        requirement: Its name in package indexes, as a regular expression; that of the import
            where empty.
    """

    name: str
    needs: str
    reason: str
    instead: str = ""
    requirement: str = ""


_KERNELS = "its kernels are compiled for NVIDIA's devices"

_OPERATORS = "write the kernel with torch's own operators, and choose by the device"

PACKAGES: tuple[Package, ...] = (
    Package("flash_attn", "cuda", _KERNELS, requirement="flash[-_]attn"),
    Package("flash_attn_interface", "cuda", _KERNELS),
    Package(
        "flash_attn_2_cuda", "cuda", _KERNELS, "use flash_attn, for which there is a substitute"
    ),
    Package("xformers", "cuda", "its operators are CUDA kernels"),
    Package("sageattention", "cuda", _KERNELS),
    Package("apex", "cuda", _KERNELS),
    Package("amp_C", "cuda", "it is compiled by apex", "use torch.amp and torch.optim"),
    Package("bitsandbytes", "parts", "its 8-bit and 4-bit kernels are written for CUDA first"),
    Package(
        "deepspeed",
        "parts",
        "its fused operators are compiled for CUDA",
        "train with torch.distributed.fsdp, or without it on one device",
    ),
    Package(
        "triton", "cuda", "its compiler has no target here", requirement="(pytorch[-_])?triton"
    ),
    Package("triton_kernels", "cuda", "it needs triton", _OPERATORS),
    Package("cupy", "cuda", "its arrays live on NVIDIA's devices", requirement=r"cupy(-.*)?"),
    Package("cupyx", "cuda", "it is part of cupy", "use numpy, scipy or torch"),
    Package("cudf", "cuda", "its tables live on NVIDIA's devices", requirement=r"cudf(-.*)?"),
    Package("cuml", "cuda", "it computes in CUDA", requirement=r"cuml(-.*)?"),
    Package("cugraph", "cuda", "it computes in CUDA", "use networkx", r"cugraph(-.*)?"),
    Package("rmm", "cuda", "it manages memory of CUDA", "leave it out", r"rmm-.*"),
    Package(
        "numba.cuda",
        "parts",
        "kernels that it compiles run on NVIDIA's devices",
        "set NUMBA_ENABLE_CUDASIM=1 to try them, and write them with torch's operators",
        r"numba-cuda",
    ),
    Package("pycuda", "cuda", "it drives NVIDIA's devices"),
    Package("cuda", "cuda", "it drives NVIDIA's devices", "leave it out", "cuda-python"),
    Package("pynvml", "parts", "it asks NVIDIA's driver"),
    Package("py3nvml", "parts", "it asks NVIDIA's driver", "ask torch.cuda, which answers here"),
    Package(
        "nvidia_smi",
        "parts",
        "it asks NVIDIA's driver",
        "ask torch.cuda, which answers here",
        "nvidia-ml-py3?",
    ),
    Package("GPUtil", "parts", "it asks nvidia-smi", "ask torch.cuda, which answers here"),
    Package("gpustat", "parts", "it asks NVIDIA's driver", "ask torch.cuda, which answers here"),
    Package("tensorrt", "cuda", "it compiles for NVIDIA's devices", requirement=r"tensorrt.*"),
    Package("torch_tensorrt", "cuda", "it compiles for NVIDIA's devices"),
    Package("transformer_engine", "cuda", _KERNELS, requirement="transformer[-_]engine.*"),
    Package("nvidia.dali", "cuda", "it decodes on NVIDIA's devices", "use torchvision", "dali"),
    Package("nvidia", "cuda", "it holds NVIDIA's libraries", "leave it out", r"nvidia-.*"),
    Package("mamba_ssm", "cuda", _KERNELS, requirement="mamba[-_]ssm"),
    Package("causal_conv1d", "cuda", _KERNELS, requirement="causal[-_]conv1d"),
    Package("selective_scan_cuda", "cuda", _KERNELS, "use a version written in torch"),
    Package("vllm", "cuda", _KERNELS, "use transformers' generate()"),
    Package("auto_gptq", "cuda", _KERNELS, "load the model unquantised", "auto[-_]gptq"),
    Package("awq", "cuda", _KERNELS, "load the model unquantised", "autoawq"),
    Package("exllamav2", "cuda", _KERNELS, "load the model unquantised"),
    Package("MinkowskiEngine", "cuda", _KERNELS),
    Package("spconv", "cuda", _KERNELS, requirement=r"spconv(-.*)?"),
    Package("tinycudann", "cuda", _KERNELS),
    Package("nvdiffrast", "cuda", _KERNELS),
    Package("diff_gaussian_rasterization", "cuda", _KERNELS, "use another renderer"),
    Package("simple_knn", "cuda", _KERNELS, "use torch.cdist and topk"),
    Package("pointnet2_ops", "cuda", _KERNELS, "use a version written in torch"),
    Package("torchsparse", "cuda", _KERNELS, "use dense layers"),
    Package("liger_kernel", "cuda", "it needs triton", "leave the layers as they are"),
    Package("fla", "cuda", "it needs triton", "use a version written in torch"),
    Package("unsloth", "cuda", "it needs triton", "use transformers and peft"),
    Package("flashinfer", "cuda", _KERNELS),
    Package("deepspeed_kernels", "cuda", _KERNELS),
)

_ROWS = {package.name: package for package in PACKAGES}
_REQUIREMENTS = [
    (re.compile(package.requirement or re.sub("_", "[-_]", package.name), re.IGNORECASE), package)
    for package in PACKAGES
]


def by_import(name: str) -> Package | None:
    """The row for a module that is imported.

    Args:
        name: Dotted, such as `flash_attn.layers`.

    Returns:
        The row of the package or of the part of one that it belongs to; None if it needs no CUDA.
    """
    while name:
        if name in _ROWS:
            return _ROWS[name]
        name = name.rpartition(".")[0]
    return None


def by_requirement(name: str) -> Package | None:
    """The row for a package as a list of requirements names it.

    Args:
        name: Without a version.

    Returns:
        The row, or None.
    """
    return next((row for pattern, row in _REQUIREMENTS if pattern.fullmatch(name)), None)


def advice(package: Package, imported: str = "") -> str:
    """What to do about a package, in one sentence.

    Args:
        package: Its row.
        imported: What is imported of it; a substitute is advised where it has that.
    """
    if package.name in told_in_a_run.SUBSTITUTES and imported and not has(imported):
        return f"Use torch's own operators: the substitute for {package.name} has no {imported}."
    instead = package.instead or told_in_a_run.PACKAGES.get(package.name)
    if package.name in told_in_a_run.SUBSTITUTES:
        option = f"run with --substitute {package.name}"
        instead = f"{option}, or {package.instead}" if package.instead else option
    return f"{instead[0].upper()}{instead[1:]}." if instead else ""

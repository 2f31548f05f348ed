"""Which modules the substitutes have, and which file here holds what is in them."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DISTRIBUTIONS", "MODULES", "Distribution", "Module"]


class Distribution(NamedTuple):
    """What `importlib.metadata` says.

    Attributes:
        name: The name under which the real package is installed.
        version: The release whose interface is followed; the local part says that it is not it.
    """

    name: str
    version: str


DISTRIBUTIONS: dict[str, Distribution] = {
    "flash_attn": Distribution("flash-attn", "2.8.3+torchdevice"),
    "apex": Distribution("apex", "0.1+torchdevice"),
    "bitsandbytes": Distribution("bitsandbytes", "0.49.2+torchdevice"),
    "xformers": Distribution("xformers", "0.0.32+torchdevice"),
}
"""By the package's import name."""


class Module(NamedTuple):
    """A module of a substitute.

    Attributes:
        sources: Files in this folder that hold its functions, all that they export.
        names: Only these of what they export; empty for all.
        absent: Names that programs import, but whose use raises.
        imports: Submodules that the real module imports itself.
    """

    sources: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()


_INTERFACE = ("flash_attn/interface", "flash_attn/kvcache")

_FLASH_ATTN: dict[str, Module] = {
    "flash_attn": Module(_INTERFACE, imports=("flash_attn_interface",)),
    "flash_attn.flash_attn_interface": Module(
        _INTERFACE,
        absent=(
            "_flash_attn_forward",
            "_flash_attn_backward",
            "_flash_attn_varlen_forward",
            "_flash_attn_varlen_backward",
            "_wrapped_flash_attn_forward",
            "_wrapped_flash_attn_backward",
        ),
    ),
    "flash_attn.bert_padding": Module(("flash_attn/padding",)),
    "flash_attn.layers": Module(),
    "flash_attn.layers.rotary": Module(("flash_attn/rotary",)),
    "flash_attn.modules": Module(),
    "flash_attn.modules.mha": Module(("flash_attn/mha",), absent=("MHA", "ParallelMHA")),
    "flash_attn.losses": Module(),
    "flash_attn.losses.cross_entropy": Module(("flash_attn/losses",), ("CrossEntropyLoss",)),
    "flash_attn.ops": Module(),
    "flash_attn.ops.layer_norm": Module(
        ("flash_attn/norms",), ("layer_norm",), ("DropoutAddLayerNorm", "dropout_add_layer_norm")
    ),
    "flash_attn.ops.rms_norm": Module(
        ("flash_attn/norms",), ("rms_norm", "RMSNorm"), ("dropout_add_rms_norm",)
    ),
    "flash_attn.ops.triton": Module(),
    "flash_attn.ops.triton.layer_norm": Module(
        ("flash_attn/norms",), ("layer_norm_fn", "rms_norm_fn", "RMSNorm")
    ),
    "flash_attn.ops.triton.cross_entropy": Module(("flash_attn/losses",), ("cross_entropy_loss",)),
    "flash_attn.ops.triton.rotary": Module(absent=("apply_rotary",)),
    "flash_attn.ops.fused_dense": Module(
        absent=("FusedDense", "FusedMLP", "fused_mlp_func", "ColumnParallelLinear")
    ),
}

_MASKS = ("xformers/masks", "xformers/blocks")
_MISSING_MASKS = (
    "BlockDiagonalGappyKeysMask",
    "BlockDiagonalCausalWithOffsetGappyKeysMask",
    "PagedBlockDiagonalPaddedKeysMask",
    "PagedBlockDiagonalCausalWithOffsetPaddedKeysMask",
    "PagedBlockDiagonalGappyKeysMask",
)
_MISSING_ATTENTION = (
    "memory_efficient_attention_backward",
    "memory_efficient_attention_partial",
    "merge_attentions",
)
_KERNELS = Module(("xformers/attention",), ("FwOp", "BwOp"))

_XFORMERS: dict[str, Module] = {
    "xformers": Module(),
    "xformers.ops": Module(
        ("xformers/attention", "xformers/layers", *_MASKS),
        (
            *("AttentionBias", "AttentionBwOpBase", "AttentionFwOpBase", "AttentionOp"),
            *("LowerTriangularMask", "LowerTriangularMaskWithTensorBias"),
            *("MemoryEfficientAttentionCutlassOp", "MemoryEfficientAttentionFlashAttentionOp"),
            *("MemoryEfficientAttentionOp", "memory_efficient_attention"),
            "memory_efficient_attention_forward",
            "memory_efficient_attention_forward_requires_grad",
            *("SwiGLU", "swiglu", "unbind", "index_select_cat", "scaled_index_add"),
        ),
        absent=(
            *_MISSING_ATTENTION,
            *("RMSNorm", "rms_norm", "rms_norm_add", "rope_padded", "masked_matmul"),
            *("SwiGLUEagerOp", "SwiGLUFusedOp", "SwiGLUOp", "SwiGLUOpDispatch"),
            *("SwiGLUPackedFusedOp", "get_stack_strides", "sequence_parallel_leading_matmul"),
        ),
        imports=("fmha",),
    ),
    "xformers.ops.fmha": Module(
        ("xformers/attention", *_MASKS),
        absent=_MISSING_ATTENTION,
        imports=("attn_bias", "cutlass", "flash"),
    ),
    "xformers.ops.fmha.attn_bias": Module(_MASKS, absent=_MISSING_MASKS),
    "xformers.ops.fmha.cutlass": _KERNELS,
    "xformers.ops.fmha.flash": _KERNELS,
    "xformers.ops.swiglu_op": Module(("xformers/layers",), ("SwiGLU", "swiglu")),
}

_APEX: dict[str, Module] = {
    "apex": Module(
        imports=("amp", "multi_tensor_apply", "normalization", "optimizers", "parallel")
    ),
    "apex.amp": Module(
        ("apex/amp",),
        absent=(
            *("init", "half_function", "float_function", "promote_function"),
            *("register_half_function", "register_float_function", "register_promote_function"),
        ),
    ),
    "apex.multi_tensor_apply": Module(("apex/multi_tensor",)),
    "apex.normalization": Module(("apex/normalization",), imports=("fused_layer_norm",)),
    "apex.normalization.fused_layer_norm": Module(("apex/normalization",)),
    "apex.optimizers": Module(
        ("apex/optimizers",),
        absent=("FusedAdagrad", "FusedMixedPrecisionLamb", "FusedNovoGrad"),
        imports=("fused_adam", "fused_lamb", "fused_sgd"),
    ),
    "apex.optimizers.fused_adam": Module(("apex/optimizers",), ("FusedAdam",)),
    "apex.optimizers.fused_lamb": Module(("apex/optimizers",), ("FusedLAMB",)),
    "apex.optimizers.fused_sgd": Module(("apex/optimizers",), ("FusedSGD",)),
    "apex.parallel": Module(("apex/parallel", "apex/larc"), absent=("Reducer",), imports=("LARC",)),
    "apex.parallel.LARC": Module(("apex/larc",)),
}

_BITSANDBYTES: dict[str, Module] = {
    "bitsandbytes": Module(
        absent=("matmul", "matmul_4bit", "MatmulLtState"), imports=("functional", "nn", "optim")
    ),
    "bitsandbytes.functional": Module(
        absent=(
            *("quantize_4bit", "dequantize_4bit", "quantize_blockwise", "dequantize_blockwise"),
            *("quantize_fp4", "dequantize_fp4", "quantize_nf4", "dequantize_nf4", "QuantState"),
        )
    ),
    "bitsandbytes.nn": Module(
        absent=(
            *("Linear4bit", "Linear8bitLt", "LinearFP4", "LinearNF4", "Int8Params", "Params4bit"),
            *("Embedding", "Embedding4bit", "Embedding8bit", "StableEmbedding"),
        )
    ),
    "bitsandbytes.optim": Module(
        ("bitsandbytes/optim",),
        absent=(
            *("AdEMAMix", "AdEMAMix8bit", "AdEMAMix32bit", "PagedAdEMAMix", "PagedAdEMAMix8bit"),
            *("PagedAdEMAMix32bit", "LAMB", "LAMB8bit", "LAMB32bit"),
            *("LARS", "LARS8bit", "LARS32bit", "PytorchLARS"),
        ),
    ),
}

MODULES: dict[str, Module] = {**_FLASH_ATTN, **_XFORMERS, **_APEX, **_BITSANDBYTES}
"""By the module's name."""

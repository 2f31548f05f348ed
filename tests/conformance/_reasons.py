"""Why an entry differs: by entry and check."""

from __future__ import annotations

__all__ = ["REASONS"]

_NARROWED = "float64 is narrowed, so that dtypes that differ on the CPU are equal here"
_ROUNDED = "computed in float64 on the CPU, and in float32 here"
_COMPRESSED = "MPS has no compressed sparse tensors: they stay on the CPU, and so does the result"

REASONS: dict[tuple[str, str], str] = {
    ("aminmax", "errors"): _NARROWED,
    ("complex", "errors"): _NARROWED,
    ("gather", "errors"): _NARROWED,
    ("scatter", "errors"): _NARROWED,
    ("scatter_add", "errors"): _NARROWED,
    ("cdouble", "backward"): _ROUNDED,
    ("double", "backward"): _ROUNDED,
    ("float_power", "backward"): _ROUNDED,
    ("log_softmax.with_dtype", "backward"): _ROUNDED,
    ("nn.functional.softmin.with_dtype", "backward"): _ROUNDED,
    ("softmax.with_dtype", "backward"): _ROUNDED,
    ("to", "backward"): _ROUNDED,
    ("nn.FractionalMaxPool2d", "all"): "the database gives it what the CPU refuses, too",
    ("nn.FractionalMaxPool3d", "all"): "the database gives it what the CPU refuses, too",
    ("optim.SparseAdam", "all"): "it wants sparse gradients, of which this run has none",
    ("torch._scaled_mm", "all"): "none of the dtypes that are tried is one of its own",
    ("torch._scaled_mm_v2", "all"): "none of the dtypes that are tried is one of its own",
    ("sparse.mm.reduce", "backward"): _COMPRESSED,
    ("sparse.sampled_addmm", "backward"): _COMPRESSED,
    ("sparse.sampled_addmm", "forward"): _COMPRESSED,
}

"""Where the simulated device differs from the CPU in PyTorch's operator database, and why.

A listed operator must differ: when it no longer does, its test fails and the row goes. Two
differences need no row: the tests ask that what has float64 in it is refused, and the operators
for which torch takes another way on the CPU have a wider tolerance, both in `_database.py`.
"""

from __future__ import annotations

from typing import NamedTuple

from ._database import NothingCompared


class Difference(NamedTuple):
    """One row.

    Attributes:
        checks: The tests that fail: "result", "gradient", "in_place", "out" or "view".
        error: What they fail with.
        reason: Why, in a sentence.
    """

    checks: tuple[str, ...]
    error: type[Exception]
    reason: str


_NO_OUT = "The database says that it takes out=, but it does not."
_NO_COMPRESSED = "The simulated device has no compressed sparse tensors, so there is no input."
_LU_SOLVE = (
    "torch's own kernel of linalg_lu_solve.out for MPS, in torch/_refs/linalg, returns early when "
    "out is empty: real MPS has this fault too."
)
_SVD = (
    "torch runs linalg_svd on the CPU for Metal and copies into out=, whose strides are then its "
    "own: on real MPS too."
)

_NO_FLOAT8 = "The device holds float8 and, like Metal, computes nothing with it."

KNOWN_DIFFERENCES: dict[str, Difference] = {
    "torch._scaled_mm": Difference(("result", "out"), RuntimeError, _NO_FLOAT8),
    "torch._scaled_mm_v2": Difference(("result", "out"), RuntimeError, _NO_FLOAT8),
    "sparse.sampled_addmm": Difference(
        ("result", "gradient", "out"), NotImplementedError, _NO_COMPRESSED
    ),
    "sparse.mm.reduce": Difference(("result", "gradient"), NotImplementedError, _NO_COMPRESSED),
    "mode": Difference(
        ("out",),
        RuntimeError,
        "torch refuses mode with out= on every device but CPU, CUDA and XPU: so does real MPS.",
    ),
    "svd": Difference(("out",), AssertionError, _SVD),
    "linalg.svd": Difference(("out",), AssertionError, _SVD),
    "lu_solve": Difference(("out",), AssertionError, _LU_SOLVE),
    "linalg.lu_solve": Difference(("out",), AssertionError, _LU_SOLVE),
    "float_power": Difference(
        ("in_place",),
        NothingCompared,
        "The result is float64, which no tensor of another dtype can take in place.",
    ),
    "equal": Difference(("out",), NothingCompared, _NO_OUT),
    "_batch_norm_with_update": Difference(("out",), NothingCompared, _NO_OUT),
    "histogramdd": Difference(("out",), NothingCompared, _NO_OUT),
    "_foreach_zero": Difference(
        ("gradient",),
        NothingCompared,
        "It exists in place only, and a leaf that requires a gradient is not written in place.",
    ),
    "_foreach_addcdiv": Difference(
        ("gradient",),
        NothingCompared,
        "torch's backward of it raises IndexError for the database's samples, on the CPU too.",
    ),
    "renorm": Difference(
        ("gradient",),
        AssertionError,
        "torch's backward takes norms of complex tensors in float64 on the CPU, where the infinity "
        "norm then finds no largest element and gives nan, and in float32 on MPS.",
    ),
}

"""`xformers.ops`: attention with masks as objects, SwiGLU, and operations on rows.

Facts: the reference documentation of xFormers ("xFormers optimized operators"), Shazeer 2020
(SwiGLU), Rabe and Staats 2021 (memory-efficient attention).
"""

from __future__ import annotations

"""`apex`: fused optimizers and norms, mixed precision by `amp.initialize`, and what is parallel.

Facts: the reference documentation of Apex, and the papers that it names. Nothing is fused here.
"""

from __future__ import annotations

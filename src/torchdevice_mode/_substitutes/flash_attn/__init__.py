"""`flash_attn`: attention with causal masks, windows, ALiBi, softcap, and what goes with it.

Facts: the interface section of the package's README and its docstrings, Dao et al. 2022 and Dao
2023 (FlashAttention, FlashAttention-2), Press et al. 2021 (ALiBi), Su et al. 2021 (rotary).
"""

from __future__ import annotations

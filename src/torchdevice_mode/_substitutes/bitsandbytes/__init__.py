"""`bitsandbytes`: its optimizers, with state in float32.

Facts: the reference documentation of bitsandbytes, and the papers that it names. Where releases
differ in their order of decay and update, the papers decide: Loshchilov and Hutter 2019 for Adam,
Chen et al. 2023 for Lion.
"""

from __future__ import annotations

"""Environment variables by which a Python learns, when it starts, that it is to redirect.

Read by the start-up hook, so this file imports nothing.
"""

from __future__ import annotations

__all__ = ["ACTIVATE", "FALSE", "FOLDER", "SIMULATE", "TRUE"]

ACTIVATE = "ACTIVATE_TORCH_DEVICE"
SIMULATE = "TORCHDEVICE_SIMULATE"
FOLDER = "TORCHDEVICE_LEDGERS"

# How a variable says yes and no, in any case of letters.
TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"", "0", "false", "no", "off"})

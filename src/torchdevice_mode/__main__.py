"""`python -m torchdevice_mode`: the command `torchdevice`."""

from __future__ import annotations

import sys

from torchdevice_mode.cli import main

if __name__ == "__main__":
    sys.exit(main())

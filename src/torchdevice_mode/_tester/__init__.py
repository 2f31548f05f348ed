"""`torchdevice test`: runs a project's own suite plain and redirected, and compares.

`suite` tells the files of a suite and the commands that run them, `process` runs one in a process
of its own, `runner` runs them all, `compare` says what differs and `causes` why; the rest writes
it down. `recorder` (a plugin of pytest) and `unittest_main` run in those processes, and tell by
`stream` what happens there, as it happens. Nothing here imports torch.
"""

from __future__ import annotations

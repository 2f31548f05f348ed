"""What the machine has, as plain facts: no torch here, `_probe` fills them in."""

from __future__ import annotations

from typing import NamedTuple

from ._spec import DeviceSpec

__all__ = ["Machine"]


class Machine(NamedTuple):
    """The accelerators of a machine and the host that carries them.

    Attributes:
        accelerators: Type and count of each accelerator that torch can use, in the order in
            which a target is chosen: MPS, CUDA, then whatever `torch.accelerator` names.
        float64_unsupported: Accelerator types that have no float64 and no complex128.
        simulated: Accelerator types that are simulated on the CPU.
        platform: `sys.platform`.
        torch_version: Version of the installed torch, such as `"2.13.0+cpu"`.
        local_rank: Which of the processes that a launcher started on this machine this one is.
    """

    accelerators: tuple[tuple[str, int], ...] = ()
    float64_unsupported: frozenset[str] = frozenset({"mps"})
    simulated: frozenset[str] = frozenset()
    platform: str = "linux"
    torch_version: str = ""
    local_rank: int | None = None

    def count(self, device_type: str) -> int:
        """How many devices of this type there are; the CPU is one device."""
        return 1 if device_type == "cpu" else dict(self.accelerators).get(device_type, 0)

    def has(self, spec: DeviceSpec) -> bool:
        """Whether this very device exists here."""
        count = self.count(spec.type)
        return count > 0 and (spec.index is None or 0 <= spec.index < count)

    @property
    def preferred(self) -> str:
        """The device type to run on when nobody chooses one."""
        return self.accelerators[0][0] if self.accelerators else "cpu"

"""Operators that the target has no kernel for: run on the CPU, and the results brought back.

The dispatcher says which operators those are. A kernel is registered for each, under the target's
key, below autograd: forward and backward, `out=` and in-place forms work alike. torch has a
fallback of its own, `PYTORCH_ENABLE_MPS_FALLBACK`, which must be set before torch is imported
and counts nothing; it is not needed.

Results never share memory with the arguments, also where the operator makes a view. Operators
of `c10d`, which talk to other processes, are left alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch

from ._active import current

__all__ = ["Kernels", "kernels", "lacking"]

# Dispatch keys of a target that can lack kernels, and the key that has them.
_KEYS = {"mps": (("MPS", "CPU"), ("SparseMPS", "SparseCPU"))}
_COMPOSITE = (
    "CompositeImplicitAutograd",
    "CompositeExplicitAutograd",
    "CompositeExplicitAutogradNonFunctional",
)
_COLLECTIVES = ("c10d", "_c10d", "symm_mem")


class Kernels:
    """The kernels that stand in for missing ones, while redirection is on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._libraries: dict[str, torch.library.Library] = {}
        self._registered: set[tuple[str, str]] = set()
        self._installed: set[str] = set()

    def install(self, device_type: str) -> None:
        """Register a kernel for each operator of torch that the target lacks.

        Takes about 10 microseconds an operator; does nothing for a device that lacks none.

        Args:
            device_type: The target's.
        """
        if device_type not in _KEYS or device_type in self._installed:
            return
        self._installed.add(device_type)
        for key, cpu_key in _KEYS[device_type]:
            self._register(key, (n for n in lacking(key, cpu_key) if n.startswith("aten::")))

    def add(self, name: str, device_type: str) -> bool:
        """Register kernels for one operator, of whatever library, if the target lacks it.

        Args:
            name: With its namespace and without its overload, as torch's error names it.
            device_type: The target's.

        Returns:
            Whether any was registered.
        """
        added = False
        for key, cpu_key in _KEYS.get(device_type, ()):
            wanted = [
                n for n in lacking(key, cpu_key) if n.partition(".")[0] == name.partition(".")[0]
            ]
            added |= self._register(key, wanted)
        return added

    def _register(self, key: str, names: Iterable[str]) -> bool:
        added = False
        with self._lock:
            for name in names:
                if (name, key) in self._registered or name.startswith(_COLLECTIVES):
                    continue
                namespace, _, rest = name.partition("::")
                library = self._libraries.get(namespace)
                if library is None:
                    library = torch.library.Library(namespace, "IMPL")
                    self._libraries[namespace] = library
                library.impl(rest, _kernel(_overload(namespace, rest)), key)
                self._registered.add((name, key))
                added = True
        return added

    def remove(self) -> None:
        """Take all of them back."""
        with self._lock:
            for library in self._libraries.values():
                library._destroy()
            self._libraries.clear()
            self._registered.clear()
            self._installed.clear()


kernels = Kernels()
"""Those of this process: kernels belong to no thread."""


def lacking(key: str, cpu_key: str) -> list[str]:
    """Operators with a kernel for the CPU and none that would serve a key.

    Args:
        key: Dispatch key of the target, such as `"MPS"`.
        cpu_key: Its counterpart on the CPU.

    Returns:
        Names with overloads, such as `"aten::mode.values"`.
    """
    ask = torch._C._dispatch_get_registrations_for_dispatch_key
    served = set(ask(key)).union(*map(ask, _COMPOSITE))
    return [name for name in ask(cpu_key) if name not in served]


def _overload(namespace: str, name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(getattr(torch.ops, namespace), packet), overload or "default")


def _kernel(operator: Any) -> Callable[..., Any]:
    """The kernel of one operator: as the CPU's, for tensors that are elsewhere."""
    from ._cpu_operator import on_cpu  # where there is such an operator

    computed = on_cpu(operator)

    def run(*args: Any, **kwargs: Any) -> Any:
        context = current()
        if context is None:
            raise NotImplementedError(
                f"The operator '{operator._schema.name}' is not currently implemented for the "
                f"MPS device, and no redirection holds in this thread."
            )
        return computed(context, f"{context.target.type} has no kernel for it", args, kwargs)

    return run

"""Who asks: the user, or torch's own code, which means it when it asks for the CPU.

torch rebuilds checkpoints on the CPU, Adam keeps its step counters there, samplers index
there. Under the policy that moves such requests to the accelerator, these must stay. Some of
torch's code, though, builds tensors on its user's behalf: the layers of `torch.nn`,
distributions, windows. Both are told by the module name of the frame that called torch.
"""

from __future__ import annotations

import sys
import types

__all__ = ["asked_by_torch", "calling_frame", "is_compiler", "only_compares", "reads_memory"]

# Modules whose every request is the user's: layers and distributions pass `device=` through.
_ON_BEHALF = (
    "torch.nn.modules",
    "torch.nn.parameter",
    "torch.nn.attention",
    "torch.nn.quantized",
    "torch.distributions",
    "torch.nested",
    "torch.signal",
    "torch.masked",
)
# Modules that build on the user's behalf when they name no device, and mean it when they name
# the CPU: `pack_padded_sequence` wants its lengths there.
_ON_BEHALF_WHEN_ABSENT = ("torch.nn.utils", "torch.nn.init", "torch.functional")
# Functions that hand a user's device on, by module and function name.
_HANDS_ON = frozenset(
    {
        ("torch", "set_default_device"),
        ("torch.utils._device", "set_device"),
        ("torch.testing._creation", "make_tensor"),
    }
)
# What `with torch.device(x)` calls: who writes that asks, and `gradcheck` of torch does, too.
_ENTERED = ("torch.utils._device", "__init__")
# Beside torch, those that mean the CPU: they read and write its memory through a pointer next.
_READS_MEMORY = frozenset({"safetensors", "safetensors.torch", "torchdevice_mode._shims.rust"})
# They look at the state of every device that there is, and the program has no line to change.
_COMPILER = ("torch._dynamo.", "torch._guards.", "torch._inductor.", "torch._functorch.")
_OVERRIDES = "torch.overrides"


def calling_frame(depth: int) -> types.FrameType:
    """The frame that called torch, seen from a rule.

    Args:
        depth: How many frames lie between the caller of this function and torch's caller.

    Returns:
        That frame. For functions that torch writes in Python, `handle_torch_function` and the
        function itself stand between and are passed over, and so are modes and tensors of others
        that hand the call on, as `with torch.device(x)` does.
    """
    frame = sys._getframe(depth + 1)
    while (outer := frame.f_back) is not None:
        if frame.f_globals.get("__name__") == _OVERRIDES:
            frame = outer.f_back or outer
        elif frame.f_code.co_name == "__torch_function__":
            frame = outer
        else:
            break
    return frame


def asked_by_torch(frame: types.FrameType, *, absent: bool) -> bool:
    """Whether a request for the CPU, or for no device, is torch's own.

    Args:
        frame: The frame that called torch.
        absent: True where no device was named, False where the CPU was.

    Returns:
        True if torch asks for itself, False if a user or a third-party library asks.
    """
    name = frame.f_globals.get("__name__")
    if not isinstance(name, str) or not (name == "torch" or name.startswith("torch.")):
        return False
    if name.startswith(_ON_BEHALF) or (absent and name.startswith(_ON_BEHALF_WHEN_ABSENT)):
        return False
    function = (name, frame.f_code.co_name)
    if function == _ENTERED and frame.f_back is not None:
        return asked_by_torch(frame.f_back, absent=absent)
    return function not in _HANDS_ON


def reads_memory(frame: types.FrameType) -> bool:
    """Whether what asks reads and writes memory of the CPU through a pointer next."""
    return frame.f_globals.get("__name__") in _READS_MEMORY


def is_compiler(frame: types.FrameType) -> bool:
    """Whether the frame runs code of torch's compiler, which asks on nobody's behalf."""
    return f"{frame.f_globals.get('__name__')}.".startswith(_COMPILER)


def only_compares(frame: types.FrameType) -> bool:
    """Whether torch names an accelerator to ask whether it is there, not to go there.

    GradScaler does so with `torch.device("mps:0")`.
    """
    return frame.f_globals.get("__name__") == "torch.amp.grad_scaler"

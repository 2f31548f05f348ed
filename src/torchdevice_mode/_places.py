"""Public places of torch that take or return a device, and have neither a rule nor a seam.

Each row says why none is needed, or that nothing answers yet. `torchdevice gap` lists them beside
those that have a rule or a seam, and finds a name that is in none of these tables.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple

__all__ = ["PLACES", "Place", "place"]


class Place(NamedTuple):
    """Names that are answered alike.

    Attributes:
        pattern: Dotted names below torch, as for `fnmatch`.
        state: `"below"`: torch functions that it calls have rules, or seams, or are rows of a
            surface. `"native"`: plain torch's own is right. `"open"`: nothing answers yet.
        reason: Why so, in one line.
    """

    pattern: str
    state: str
    reason: str


_CALLS = "calls torch functions that have rules"
_LATE = "torch imports it late, and what it asks of a device is a seam then"
_MOVES = "moves its tensors by Tensor.to, which has a rule"

PLACES: tuple[Place, ...] = (
    # --- torch, torch.Tensor
    Place("torch.*Storage", "below", "makes an UntypedStorage, whose constructor is a seam"),
    Place("torch.Tensor.device", "native", "tells where the tensor really is"),
    Place("torch.Tensor.is_*", "native", "tells where the tensor really is"),
    Place("torch.Tensor.eq", "native", "the overload that compares two devices is TorchScript's"),
    Place("torch.Tensor.ne", "native", "the overload that compares two devices is TorchScript's"),
    Place("torch.eq", "native", "the overload that compares two devices is TorchScript's"),
    Place("torch.ne", "native", "the overload that compares two devices is TorchScript's"),
    Place("torch.storage.TypedStorage*", "below", "the same class as torch.TypedStorage"),
    Place("torch.TypedStorage.is_pinned", "native", "False, as no memory is pinned"),
    Place("torch.TypedStorage.pin_memory", "native", "pins memory on the CPU where torch can"),
    Place("torch.TypedStorage*", "below", "hands the device to torch.device, which has a rule"),
    Place("torch.get_default_device", "native", "tells what was set"),
    Place("torch.set_default_device", "below", "makes a torch.device, which has a rule"),
    Place("torch.load", "below", "asks torch.serialization's registered packages: ours is one"),
    Place("torch.serialization.load", "below", "asks the registered packages: ours is one"),
    # --- torch.nn
    Place("torch.nn.Module.cuda", "below", "calls Tensor.cuda, which has a rule"),
    Place("torch.nn.Module.xpu", "below", "calls Tensor.xpu, which has a rule"),
    Place("torch.nn.Module.ipu", "below", "calls Tensor.ipu, which has a rule"),
    Place("torch.nn.Module.mtia", "below", "calls Tensor.mtia, which has a rule"),
    Place("torch.nn.Module.to_empty", "below", "calls torch.empty_like, which has a rule"),
    Place("torch.nn.Transformer.generate_square_subsequent_mask", "below", _CALLS),
    Place("torch.nn.*Uninitialized*", "below", _CALLS),
    Place("torch.nn.*DataParallel.*", "below", "calls functions of torch.nn.parallel, with seams"),
    Place("torch.nn.attention.flex_attention.*", "below", _CALLS),
    # --- optimisation and differentiation
    Place("torch.optim.swa_utils.*", "below", _MOVES),
    Place("torch.autograd.profiler.FunctionEvent*", "native", "a record of what was measured"),
    Place("torch.utils.checkpoint.DefaultDeviceType.*", "native", "a name that is kept"),
    Place("torch.utils.checkpoint.set_device_states", "below", "asks the device's module: a seam"),
    Place("torch.utils.data.DataLoader", "below", "what its workers do, and pinning, are seams"),
    Place("torch.profiler.profile", "below", "is torch.autograd.profiler.profile, a seam"),
    Place("torch.utils.dlpack.from_dlpack", "below", "the same function as torch.from_dlpack"),
    # --- mixed precision, random numbers
    Place("torch.amp.is_autocast_available", "below", "asks C++, where a seam is"),
    Place("torch.amp.custom_fwd", "below", "enters torch.autocast, which is a seam"),
    Place("torch.amp.custom_bwd", "below", "enters torch.autocast, which is a seam"),
    Place("torch.random.fork_rng", "below", "reaches torch.cuda, which is a surface"),
    # --- programs in other forms
    Place("torch.jit.Future", "open", "made for remote calls between devices, which are CUDA's"),
    Place("torch.futures.Future", "open", "made for remote calls between devices, CUDA's alone"),
    Place("torch.hub.load_state_dict_from_url", "below", "calls torch.load"),
    Place("torch.package.PackageImporter.load_pickle", "below", "asks the registered packages"),
    Place("torch.library.custom_op", "below", "registers by CustomOpDef, which is a seam"),
    Place("torch.library.register_*", "below", "registers by CustomOpDef, which is a seam"),
    # --- made-up data, windows, distributions
    Place("torch.testing.make_tensor", "below", _CALLS),
    Place("torch.signal.windows.*", "below", _CALLS),
    # --- several processes
    Place("torch.distributed.Backend.register_backend", "native", "names types of devices"),
    Place("torch.distributed.*DeviceMesh.from_group", "below", "makes a DeviceMesh, a seam"),
    Place("torch.distributed.fsdp.FullyShardedDataParallel*", "below", _LATE),
    Place("torch.distributed.fsdp.CPUOffloadPolicy", "native", "an option that is kept"),
    Place("torch.distributed.get_default_backend_for_device", "below", "makes a torch.device"),
    Place("torch.distributed.new_group", "below", "makes a group by a function that is a seam"),
    Place("torch.distributed.*", "below", "calls collectives, which are served for the target"),
)


def place(name: str) -> Place | None:
    """The first row that a name matches.

    Args:
        name: A dotted name below torch.

    Returns:
        The row, or None.
    """
    return next((row for row in PLACES if fnmatchcase(name, row.pattern)), None)

"""What few programs use: patches whose code is imported when it is used, so that enabling is quick.

Some are in a file of their own with the module that they change, and are imported after it. The
others change what torch has imported by now, and their code is imported when it is first called.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch

from .._active import current
from .._modes import plain_torch
from .._packages import announce_missing
from .._patches import Hook, OnFirstCall, Patch, imported, late_file

__all__ = ["FILES", "PATCHES"]

FILES: dict[str, tuple[str, ...]] = {
    "compiler": ("torch._dynamo", "torch._dynamo.convert_frame"),
    "compiled_float64": ("torch._dynamo.output_graph",),
    "export": ("torch._export.serde.serialize", "torch.export.passes"),
    "inductor": ("torch._inductor.output_code",),
    "packages": (
        "accelerate.utils.modeling",
        "lightning.fabric.accelerators.cuda",
        "lightning.pytorch.accelerators.cuda",
        "lightning_fabric.accelerators.cuda",
        "pytorch_lightning.accelerators.cuda",
    ),
    "rust": ("safetensors", "safetensors.torch"),
    "sharded": ("torch.distributed.checkpoint.filesystem",),
    "distributed._dtensor_random": (
        "torch.distributed.tensor._random",
        "torch.distributed.tensor._dispatch",
    ),
    "distributed._sharding": ("torch.distributed.tensor",),
    "distributed._sharded": tuple(
        f"torch.distributed.fsdp.{name}"
        for name in ("_common_utils", "_init_utils", "fully_sharded_data_parallel", "_flat_param")
    ),
}
"""The modules that a file has patches of."""


# Dynamo is to see plain torch when it is first imported.
_WITHIN = {"torch._dynamo": plain_torch}


def _here(function: str) -> OnFirstCall:
    return OnFirstCall(f"{__package__}.{function}")


_C = torch._C
_parallel = torch.nn.parallel
_scatter_gather = imported("torch.nn.parallel.scatter_gather")

_CALL = "a call of a scripted program is no torch function, so no function mode sees it"
_WRITES = "written in C++, which names the device that a tensor is on"
_TRACER = "where a call raises torch leaves its tracer aside, which no mode can take up again"
_KERNELS = "names a device type in Python that no mode sees"
_TOO_LATE = "torch learns what kind of tensor it is when the storage is on the target already"
_BY_NUMBER = "the devices are given by number, and one stands for all"
_IN_CPP = "copies between devices in C++ that only CUDA builds have"

_SCRIPT: tuple[Patch, ...] = (
    Patch(lambda: _C.ScriptFunction, "__call__", _here("script:answering"), _CALL),
    Patch(lambda: _C.ScriptMethod, "__call__", _here("script:answering"), _CALL),
    Patch(
        imported("torch.jit.annotations"),
        "try_ann_to_type",
        _here("script:known_annotation"),
        "knows classes by identity, also those that were in annotations before redirection",
    ),
    Patch(
        imported("torch.jit"),
        "load",
        _here("script_files:loading"),
        "reads devices in C++ that no mode sees",
    ),
    *(
        Patch(owner, name, _here(f"script_files:{wrap}"), _WRITES)
        for owner in (lambda: _C.ScriptModule, lambda: _C.ScriptFunction)
        for name, wrap in (("save", "to_file"), ("save_to_buffer", "to_buffer"))
    ),
    *(
        Patch(lambda owner=owner: owner, name, _here("tracing:remembering"), _TRACER)  # type: ignore[misc]
        for owner, names in (
            (
                _C,
                (
                    "_create_function_from_trace",
                    "_create_function_from_trace_with_dict",
                    "_create_graph_by_tracing",
                ),
            ),
            (
                _C.ScriptModule,
                ("_create_method_from_trace", "_create_method_from_trace_with_dict"),
            ),
        )
        for name in names
        if hasattr(owner, name)
    ),
)

_FILES_OF_TENSORS: tuple[Patch, ...] = (
    Patch(
        lambda: torch._utils,
        "_rebuild_tensor",
        _here("unholdable:narrower"),
        "a storage has no dtype yet when it is placed, and a float64 tensor cannot lie on MPS",
    ),
    Patch(
        lambda: torch._utils, "_rebuild_qtensor", _here("unholdable:quantised_on_cpu"), _TOO_LATE
    ),
    Patch(
        lambda: torch._utils,
        "_rebuild_sparse_tensor",
        _here("unholdable:sparse_or_on_cpu"),
        _TOO_LATE,
    ),
    Patch(
        lambda: torch._utils,
        "_rebuild_nested_tensor",
        _here("unholdable:nested_or_on_cpu"),
        _TOO_LATE,
    ),
    Patch(
        lambda: torch.serialization,
        "_legacy_load",
        _here("unholdable:with_second_pass"),
        "only here is it known that the memory of all tensors has been read",
    ),
)

_DATA_PARALLEL: tuple[Patch, ...] = tuple(
    Patch(owner, name, _here(f"cuda._data_parallel:{wrap}"), reason)
    for owner, name, wrap, reason in (
        (lambda: torch.nn.DataParallel, "__init__", "one_device", _BY_NUMBER),
        (lambda: _parallel, "data_parallel", "function_on_one_device", _BY_NUMBER),
        # `DataParallel` finds these where they are written, programs where they are exported.
        (_scatter_gather, "scatter", "to_one_device", _IN_CPP),
        (lambda: _parallel, "scatter", "to_one_device", _IN_CPP),
        (_scatter_gather, "gather", "from_one_device", _IN_CPP),
        (lambda: _parallel, "gather", "from_one_device", _IN_CPP),
        (lambda: _parallel, "replicate", "one_replica", _IN_CPP),
        (lambda: _parallel, "parallel_apply", "one_after_the_other", _IN_CPP),
    )
)

PATCHES: tuple[Patch | Hook, ...] = (
    *(
        late_file(f"{__package__}.{file}", module, around=_WITHIN.get(module, nullcontext))
        for file, modules in FILES.items()
        for module in modules
    ),
    Hook(
        lambda: announce_missing(lambda: current() is not None),
        "says what to do about a package that needs CUDA and is missing",
    ),
    Patch(
        lambda: getattr(torch, "_TorchCompileInductorWrapper", None),
        "__call__",
        _here("inductor:without_graphs"),
        "called by Dynamo with a graph to compile, and no torch function",
    ),
    Patch(
        imported("torch._library.custom_ops", "CustomOpDef"),
        "register_kernel",
        _here("library:for_the_target"),
        _KERNELS,
    ),
    Patch(
        imported("torch._library.custom_ops", "CustomOpDef"),
        "register_autocast",
        _here("library:autocast_for_the_target"),
        _KERNELS,
    ),
    Patch(
        imported("torch.testing._comparison", "TensorLikePair"),
        "_compare_attributes",
        _here("testing:lenient"),
        "assert_close compares devices in Python, past every mode",
    ),
    Patch(
        lambda: torch,
        "set_default_tensor_type",
        _here("cuda._tensor_types:default_type_setter"),
        "hands a CUDA tensor type to C++, which has none",
    ),
    *_SCRIPT,
    *_FILES_OF_TENSORS,
    *_DATA_PARALLEL,
)

"""What to write instead: the device-agnostic spelling of what programs ask of one device.

One row for each name of torch, and one for each kind of event in the ledger. The report shows
them beside the lines of a run, the doctor beside those that it reads; nothing here needs torch.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import NamedTuple

__all__ = ["ANY_DEVICE", "ROWS", "Suggestion", "for_event", "for_name"]

ANY_DEVICE = (
    "device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() "
    'else torch.device("cpu")'
)
"""What `device` stands for in every suggestion: to be written once, where the program begins."""

_CHOICE = ANY_DEVICE.removeprefix("device = ")


class Suggestion(NamedTuple):
    """A row.

    Attributes:
        name: What it is about, as `for_name` takes it; a pattern of `fnmatch` where it has a star.
        instead: Code to write in its place; empty where there is none.
        advice: One sentence: what to do, and what to mind.
    """

    name: str
    instead: str
    advice: str


_GUARD = "it raises where there is no accelerator, so ask torch.accelerator.is_available() before"
_DROP = "Drop it, or run it only where torch.cuda.is_available()"
_ONE = "Name the device once, and hand it on"
_OWN = "is CUDA's own: keep it behind torch.cuda.is_available()"
_FIGURE = f"The same figure of any accelerator (of MPS from torch 2.13 on); {_GUARD}."


def _same(*names: str, instead: str = "torch.accelerator.{}()", advice: str) -> list[Suggestion]:
    """Rows of names below torch.cuda whose counterpart has the same name."""
    return [Suggestion(f"torch.cuda.{name}", instead.format(name), advice) for name in names]


ROWS: tuple[Suggestion, ...] = (
    # --- tensors and modules
    Suggestion("Tensor.cuda", ".to(device)", f"{_ONE}: .to(device) works on every machine."),
    Suggestion("Tensor.cpu", "", "Leave .cpu() as it is: it is right on every machine."),
    Suggestion("Module.cuda", ".to(device)", f"{_ONE}: .to(device) works on every machine."),
    Suggestion(
        "Tensor.is_cuda",
        'x.device.type != "cpu"',
        "Ask whether the tensor is on an accelerator, or compare x.device with device.",
    ),
    Suggestion(
        "Tensor.get_device",
        "x.device",
        "Ask for the device itself: a bare number is an index on the current accelerator.",
    ),
    Suggestion(
        "Tensor.pin_memory",
        'x.pin_memory() if device.type == "cuda" else x',
        "Pinned memory speeds up copies to CUDA alone: pin only where the device is CUDA's.",
    ),
    Suggestion(
        "Tensor.type",
        ".to(device, torch.float32)",
        "Types such as torch.cuda.FloatTensor name a device and a dtype: say the two by .to().",
    ),
    # --- strings and numbers that name a device
    Suggestion("device string", "device", f"{_ONE}, instead of writing its name here."),
    Suggestion(
        "device index",
        "device",
        "A bare number is an index on the current accelerator: hand on the device instead.",
    ),
    Suggestion(
        "device choice",
        _CHOICE,
        "It makes the same choice for any accelerator: a torch.device, whose .type is the name.",
    ),
    Suggestion("torch.device", "device", f"{_ONE}, instead of writing its name here."),
    Suggestion(
        "torch.set_default_tensor_type",
        "torch.set_default_device(device)",
        "It is deprecated: set the device and the dtype (torch.set_default_dtype) on their own.",
    ),
    Suggestion(
        "torch.load",
        'torch.load(path, map_location="cpu")',
        "Load to the CPU and move the model, so that the file loads wherever it was written.",
    ),
    # --- mixed precision
    *(
        Suggestion(
            name,
            "torch.autocast(device.type)",
            "It takes the type of any device; say dtype=torch.bfloat16 where it can do that.",
        )
        for name in ("torch.cuda.amp.autocast", "torch.cuda.amp.autocast_mode.autocast")
    ),
    *(
        Suggestion(
            name,
            "torch.amp.GradScaler(device.type)",
            "It takes the type of any device; bfloat16 needs no scaler.",
        )
        for name in ("torch.cuda.amp.GradScaler", "torch.cuda.amp.grad_scaler.GradScaler")
    ),
    *(
        Suggestion(
            f"torch.cuda.amp.{name}",
            f"torch.amp.{name}(device_type=device.type)",
            "It takes the type of any device.",
        )
        for name in ("custom_fwd", "custom_bwd")
    ),
    Suggestion(
        "torch.autocast", "torch.autocast(device.type)", f"{_ONE}: autocast takes its type."
    ),
    Suggestion(
        "torch.amp.autocast", "torch.amp.autocast(device.type)", f"{_ONE}: autocast takes its type."
    ),
    Suggestion(
        "torch.amp.GradScaler",
        "torch.amp.GradScaler(device.type)",
        f"{_ONE}: the scaler takes its type.",
    ),
    # --- torch.cuda: is there one, which one
    *_same(
        *("is_available", "device_count"),
        advice="It asks for any accelerator; a machine with none answers False or 0.",
    ),
    Suggestion(
        "torch.cuda.current_device",
        "torch.accelerator.current_device_index()",
        f"The same of any accelerator; {_GUARD}.",
    ),
    Suggestion(
        "torch.cuda.set_device",
        "torch.accelerator.set_device_index(index)",
        f"The same of any accelerator, or hand on the device; {_GUARD}.",
    ),
    Suggestion(
        "torch.cuda.device",
        "torch.accelerator.device_index(index)",
        f"The same of any accelerator, or hand on the device; {_GUARD}.",
    ),
    Suggestion(
        "torch.cuda.get_device_capability",
        "torch.accelerator.get_device_capability()",
        f"It lists the dtypes of any accelerator: ask for what the code needs; {_GUARD}.",
    ),
    *(
        Suggestion(
            f"torch.cuda.{name}",
            "",
            "It describes NVIDIA's hardware: print it only where torch.cuda.is_available(), and "
            "decide nothing by it.",
        )
        for name in (
            "get_device_name",
            "get_device_properties",
            "get_arch_list",
            "get_gencode_flags",
        )
    ),
    Suggestion(
        "torch.cuda.is_bf16_supported",
        "",
        "No such question is asked of other devices: try the dtype once on the device, and use "
        "float32 where torch refuses it.",
    ),
    Suggestion(
        "torch.cuda.is_initialized", "", "Drop it: torch starts a device when it is first used."
    ),
    Suggestion("torch.cuda.init", "", "Drop it: torch starts a device when it is first used."),
    # --- torch.cuda: waiting and timing
    *_same("synchronize", advice=f"It waits for any accelerator; {_GUARD}."),
    Suggestion(
        "torch.cuda.Event",
        "torch.Event(device, enable_timing=True)",
        "It records on any accelerator; on the CPU, and on MPS, where asking for the time can "
        "hang, use time.perf_counter().",
    ),
    Suggestion(
        "torch.cuda.Stream",
        "torch.Stream(device)",
        "It makes a stream of any device that has several; MPS has one.",
    ),
    *(
        Suggestion(
            f"torch.cuda.{name}.*",
            "",
            f"Leave the call where the object is made as a torch.{name}, which has it as well.",
        )
        for name in ("Event", "Stream")
    ),
    *_same("current_stream", advice=f"The same of any accelerator; {_GUARD}."),
    *_same(
        "set_stream",
        instead="torch.accelerator.{}(stream)",
        advice=f"The same of any accelerator; {_GUARD}.",
    ),
    Suggestion(
        "torch.cuda.stream",
        "with stream:",
        "A torch.Stream is a context manager of its own, on any accelerator.",
    ),
    Suggestion(
        "torch.cuda.CUDAGraph",
        "torch.accelerator.Graph()",
        f"From torch 2.13 on, and for accelerators that have graphs; {_GUARD}.",
    ),
    *(
        Suggestion(f"torch.cuda.{name}", "", f"A CUDA graph {_OWN}.")
        for name in ("graph", "make_graphed_callables", "graph_pool_handle")
    ),
    # --- torch.cuda: memory
    *_same("empty_cache", advice=f"It gives back what any accelerator holds unused; {_GUARD}."),
    *_same(
        *("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"),
        *("memory_stats", "reset_peak_memory_stats", "reset_accumulated_memory_stats"),
        advice=_FIGURE,
    ),
    Suggestion("torch.cuda.memory_cached", "torch.accelerator.memory_reserved()", _FIGURE),
    Suggestion("torch.cuda.max_memory_cached", "torch.accelerator.max_memory_reserved()", _FIGURE),
    Suggestion(
        "torch.cuda.reset_max_memory_*", "torch.accelerator.reset_peak_memory_stats()", _FIGURE
    ),
    Suggestion("torch.cuda.mem_get_info", "torch.accelerator.get_memory_info()", _FIGURE),
    Suggestion(
        "torch.cuda.memory_summary",
        "torch.accelerator.memory_stats()",
        f"The figures of any accelerator as a dictionary; {_GUARD}.",
    ),
    Suggestion(
        "torch.cuda.set_per_process_memory_fraction",
        "torch.get_device_module(device).set_per_process_memory_fraction(share)",
        "CUDA and MPS have it, the CPU has not: ask hasattr() before.",
    ),
    Suggestion(
        "torch.cuda.OutOfMemoryError", "torch.OutOfMemoryError", "It is raised by any accelerator."
    ),
    # --- torch.cuda: random numbers
    *(
        Suggestion(
            f"torch.cuda.{name}",
            "torch.manual_seed(seed)",
            "It seeds every device, the accelerator's included: one call is enough.",
        )
        for name in ("manual_seed", "manual_seed_all", "seed", "seed_all")
    ),
    *(
        Suggestion(
            f"torch.cuda.{name}",
            f"torch.get_device_module(device).{name.removesuffix('_all')}()",
            "Accelerators have it under this name; the CPU's is torch.get_rng_state.",
        )
        for name in ("get_rng_state", "get_rng_state_all")
    ),
    *(
        Suggestion(
            f"torch.cuda.{name}",
            f"torch.get_device_module(device).{name.removesuffix('_all')}(state)",
            "Accelerators have it under this name; the CPU's is torch.set_rng_state.",
        )
        for name in ("set_rng_state", "set_rng_state_all")
    ),
    Suggestion(
        "torch.cuda.default_generators",
        "torch.Generator(device)",
        "Make a generator of the device, and hand it to what draws.",
    ),
    Suggestion(
        "torch.Generator", "torch.Generator(device)", f"{_ONE}: the generator takes any device."
    ),
    # --- torch.cuda: tensor types
    *(
        Suggestion(
            f"torch.cuda.{name}Tensor",
            f"torch.tensor(data, dtype=torch.{dtype}, device=device)",
            "Types that name a device are deprecated: say dtype and device; of sizes instead of "
            "data, torch.empty makes a tensor"
            + ("; MPS has no float64." if name == "Double" else "."),
        )
        for name, dtype in (
            *(("Float", "float32"), ("Double", "float64"), ("Half", "float16")),
            *(("BFloat16", "bfloat16"), ("Long", "int64"), ("Int", "int32"), ("Short", "int16")),
            *(("Char", "int8"), ("Byte", "uint8"), ("Bool", "bool")),
        )
    ),
    # --- torch.cuda: tools of NVIDIA's
    *(
        Suggestion(
            f"torch.cuda.{name}",
            "with torch.profiler.record_function(name):",
            "It names a range for any profiler; NVTX is seen by NVIDIA's alone.",
        )
        for name in ("nvtx.range", "nvtx.range_push", "nvtx.range_start", "nvtx.mark")
    ),
    Suggestion(
        "torch.cuda.nvtx.*",
        "",
        "Write torch.profiler.record_function, a context manager that ends itself.",
    ),
    Suggestion(
        "torch.cuda.profiler.*",
        "torch.profiler.profile()",
        "It profiles any device; this one starts NVIDIA's tools.",
    ),
    Suggestion("torch.cuda.nccl.*", "torch.distributed", "Use its collectives on any backend."),
    Suggestion(
        "torch.cuda.comm.*",
        "torch.distributed",
        "Use its collectives, with a process for a device.",
    ),
    *(
        Suggestion(f"torch.cuda.{name}", "", f"{_DROP}: it sets up or inspects NVIDIA's hardware.")
        for name in (
            *("ipc_collect", "_sleep", "cudart", "check_error", "utilization", "temperature"),
            *("power_draw", "clock_rate", "memory_usage", "tunable.*", "set_sync_debug_mode"),
            *("get_sync_debug_mode", "can_device_access_peer", "memory._record_memory_history"),
            *("memory._dump_snapshot", "memory._snapshot", "memory_snapshot"),
            *("caching_allocator_*", "memory._set_allocator_settings", "get_allocator_backend"),
        )
    ),
    *(
        Suggestion(
            f"torch.cuda.{name}",
            "",
            f"This {_OWN}, and give other devices a version in torch's own operators.",
        )
        for name in ("jiterator.*", "_compile_kernel", "gds.*", "green_contexts.*", "GreenContext")
    ),
    Suggestion(
        "torch.cuda.*",
        "torch.get_device_module(device)",
        "Many names of torch.cuda stand in the module of other devices as well; where this one "
        "does not, keep it behind torch.cuda.is_available().",
    ),
    # --- flags of CUDA's libraries
    Suggestion(
        "torch.backends.cudnn.*",
        "",
        "It is harmless on other devices, which have no cuDNN; leave it.",
    ),
    Suggestion(
        "torch.backends.cuda.matmul.allow_tf32",
        'torch.set_float32_matmul_precision("high")',
        "It says the same for every device, and is ignored where there is no such format.",
    ),
    Suggestion(
        "torch.backends.cuda.sdp_kernel",
        "torch.nn.attention.sdpa_kernel(backends)",
        "It is the name that is not deprecated, for every device.",
    ),
    Suggestion(
        "torch.backends.cuda.*", "", "It is harmless on other devices, which ignore it; leave it."
    ),
    # --- MPS's own names
    Suggestion(
        "torch.backends.mps.is_available",
        "torch.accelerator.is_available()",
        "It asks for any accelerator.",
    ),
    Suggestion(
        "torch.backends.mps.is_built",
        "torch.accelerator.is_available()",
        "It asks for any accelerator.",
    ),
    *(
        Suggestion(f"torch.mps.{name}", f"torch.accelerator.{other}()", f"{advice}; {_GUARD}.")
        for name, other, advice in (
            ("synchronize", "synchronize", "It waits for any accelerator"),
            ("empty_cache", "empty_cache", "It gives back what any accelerator holds unused"),
            ("device_count", "device_count", "It counts any accelerator's devices"),
            ("current_allocated_memory", "memory_allocated", "From torch 2.13 on, of MPS too"),
            ("driver_allocated_memory", "memory_reserved", "From torch 2.13 on, of MPS too"),
            ("recommended_max_memory", "get_memory_info", "From torch 2.13 on, of MPS too"),
        )
    ),
    *(
        Suggestion(
            f"torch.mps.{name}",
            "torch.manual_seed(seed)",
            "It seeds every device, the accelerator's included: one call is enough.",
        )
        for name in ("manual_seed", "seed")
    ),
    Suggestion(
        "torch.mps.*",
        "torch.get_device_module(device)",
        "Many names of torch.mps stand in the module of other devices as well.",
    ),
    # --- several devices
    *(
        Suggestion(
            name,
            "torch.nn.parallel.DistributedDataParallel(model)",
            "Use a process for a device; on one device, leave the model unwrapped.",
        )
        for name in ("torch.nn.DataParallel", "torch.nn.parallel.DataParallel")
    ),
    Suggestion(
        "torch.distributed.init_process_group",
        "backend=torch.distributed.get_default_backend_for_device(device)",
        "It names the backend of any device: NCCL is CUDA's alone.",
    ),
    # --- what a run counted
    Suggestion(
        "event redirection no device",
        "",
        "Leave it where it is moved later, as by model.to(device), or meant for the CPU; else say "
        "device=device, since plain torch makes it on the CPU.",
    ),
    Suggestion(
        "event redirection cpu",
        "",
        "The program asked for the CPU, and policy='force' moved it: say device=device where that "
        "is right, and run with policy='explicit' where the CPU is meant.",
    ),
    Suggestion(
        "event redirection elsewhere",
        "",
        "The name of the device comes from another line: set it to device there, and leave this "
        "line.",
    ),
    Suggestion("event redirection", "device", f"{_ONE}, instead of writing its name here."),
    Suggestion(
        "event adoption",
        "x = x.to(device)",
        "A tensor on the CPU is copied at every pass: make it on the device, or move it once "
        "before the loop.",
    ),
    Suggestion(
        "event downcast",
        "dtype=torch.float32",
        "The target has no float64: ask for float32 here, or keep this part on the CPU.",
    ),
    Suggestion(
        "event fallback float64",
        "dtype=torch.float32",
        "The target has no float64, so this is computed on the CPU: ask for float32 here, or "
        "keep what needs the digits there as a whole.",
    ),
    Suggestion(
        "event fallback collective",
        "",
        "The backend works on the CPU, so tensors are copied there and back: make fewer and "
        "larger messages.",
    ),
    Suggestion(
        "event fallback",
        'y = f(x.to("cpu")).to(device)',
        "The target cannot do this, so it is computed on the CPU with a copy each way: write it "
        "with other operators, or do the steps around it on the CPU as well.",
    ),
    Suggestion(
        "event difference",
        'y = f(x.to("cpu")).to(device)',
        "The target computes something else here than the CPU: compute this on the CPU until "
        "PyTorch has repaired it.",
    ),
    Suggestion("event stub", "", f"{_DROP}: it does nothing on this target."),
)

_EXACT = {row.name: row for row in ROWS if "*" not in row.name}
_PATTERNS = [row for row in ROWS if "*" in row.name]
_ALIASES = (
    # The modules in which torch.cuda keeps what it exports.
    (re.compile(r"^torch\.cuda\.(memory|random|streams|graphs)\.(?!_)"), "torch.cuda."),
    (re.compile(r"^torch\.(?:nn\.Module|Module)\."), "Module."),
    (re.compile(r"^torch\.(?:\w*Tensor)\."), "Tensor."),
)


def for_name(name: str) -> Suggestion | None:
    """What to write instead of a name.

    Args:
        name: A dotted name, such as `torch.cuda.synchronize` or `Tensor.cuda`; or `device string`
            for a text such as `"cuda:0"`, `device index` for a number that stands for a device.

    Returns:
        The row; None where the name is right on every device, or is not known.
    """
    for pattern, short in _ALIASES:
        name = pattern.sub(short, name)
    found = _EXACT.get(name)
    if found is None:
        found = next((row for row in _PATTERNS if fnmatchcase(name, row.name)), None)
    return found


def for_event(kind: str, asked: str) -> Suggestion | None:
    """What to do about something that the ledger counted.

    Args:
        kind: As of `Site`, such as `adoption`.
        asked: What the program asked for, as of `Site`; `elsewhere` for a device that the line
            does not name.

    Returns:
        The row; None for a kind that is not known.
    """
    if kind == "stub":
        return for_name(asked) or _EXACT["event stub"]
    if kind == "redirection" and asked.partition(":")[0] in ("no device", "cpu", "elsewhere"):
        return _EXACT[f"event redirection {asked.partition(':')[0]}"]
    if kind in ("answer", "synchronisation"):
        return for_name(asked)
    if kind == "fallback" and asked.startswith("float64"):
        return _EXACT["event fallback float64"]
    if kind == "fallback" and asked.startswith("c10d"):
        return _EXACT["event fallback collective"]
    return _EXACT.get(f"event {kind}")

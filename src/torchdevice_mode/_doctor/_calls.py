"""Checks of calls: what moves, loads, builds, starts processes or reads variables."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from ._findings import Severity
from ._flow import Where
from ._found import Found
from ._names import dotted
from ._texts import is_autocast

__all__ = ["call", "environment"]

_EXTENSION = "torch.utils.cpp_extension."
_PROCESS = re.compile(
    r"subprocess\.(run|Popen|call|check_call|check_output|getoutput|getstatusoutput)"
    r"|os\.(system|popen|exec\w+|spawn\w+)|asyncio\.create_subprocess_\w+"
)
_QUIET = frozenset({"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"})
_TOOL = re.compile(r"\b(nvidia-smi|nvcc|nvprof|nsys|ncu|nvidia-settings)\b")
_LIBRARY = re.compile(r"cuda|cublas|cudnn|cufft|nvrtc|nvidia|nvml|nvtx|libnccl", re.IGNORECASE)
_LOADS_LIBRARY = re.compile(r"ctypes\.(CDLL|PyDLL|WinDLL|cdll\.LoadLibrary)")
_WORKER_METHODS = re.compile(r"(torch\.)?multiprocessing\.(set_start_method|get_context)")
_FAILURES = frozenset({"FileNotFoundError", "OSError", "Exception", "BaseException"})
_BUILD_FAILURES = frozenset({"OSError", "RuntimeError", "Exception", "BaseException"})
_VARIABLES = {
    "PYTORCH_CUDA_ALLOC_CONF": "CUDA's allocator",
    "PYTORCH_ALLOC_CONF": "CUDA's allocator",
    "PYTORCH_NO_CUDA_MEMORY_CACHING": "CUDA's allocator",
    "CUDA_LAUNCH_BLOCKING": "CUDA's runtime",
    "CUDA_DEVICE_ORDER": "CUDA's runtime",
    "CUBLAS_WORKSPACE_CONFIG": "cuBLAS",
    "NVIDIA_TF32_OVERRIDE": "cuBLAS and cuDNN",
    "TORCH_CUDA_ARCH_LIST": "nvcc's builds",
    "NCCL_DEBUG": "NCCL",
    "NCCL_P2P_DISABLE": "NCCL",
    "NCCL_IB_DISABLE": "NCCL",
    "NCCL_SOCKET_IFNAME": "NCCL",
}
# Of torch.cuda: what takes the number of a device, and raises if there is none.
_NUMBERED = frozenset(
    f"torch.cuda.{name}"
    for name in (
        *("set_device", "device", "synchronize", "current_stream", "Stream", "mem_get_info"),
        *("get_device_properties", "get_device_name", "get_device_capability"),
        *("memory_allocated", "memory_reserved", "memory_stats", "reset_peak_memory_stats"),
        *("max_memory_allocated", "max_memory_reserved", "get_rng_state", "utilization"),
    )
)
_NO_NUMBER = frozenset({"AssertionError", "RuntimeError", "Exception", "BaseException"})
_TORCH_LOAD = ("torch.load", "torch.jit.load")
_WIDE = ("torch.nn.DataParallel", "torch.nn.parallel.DataParallel")


def call(node: ast.Call, found: Found, where: Where, extensions: set[str]) -> None:
    """Look at a call.

    Args:
        node: The call.
        found: Where findings go.
        where: What is known of the place.
        extensions: Names of extensions built from CUDA source; a build found here is added.
    """
    name = dotted(node.func, where.scope)
    if name is None:
        if isinstance(node.func, ast.Attribute):
            _method(node, node.func.attr, found, where)
        return
    if is_autocast(name):
        _autocast(node, name, found, where)
    elif name.startswith(_EXTENSION):
        _extension(node, name.removeprefix(_EXTENSION), found, where, extensions)
    elif name in _NUMBERED:
        _numbered(node, name, found, where)
    elif name in _TORCH_LOAD:
        _torch_load(node, name, found, where)
    elif name in ("torch.ops.load_library", "torch.classes.load_library"):
        found.add(
            node,
            "compiled-library",
            "a compiled library is loaded, which must have been built for this machine",
            where,
            about=name,
            caught=_BUILD_FAILURES,
        )
    elif name in _WIDE:
        message = "there is one device, so the model runs on that one"
        found.add(node, "data-parallel", message, where, about=name, state="mapped")
    elif name.endswith("DataLoader") and name.startswith("torch.utils.data"):
        _loader(node, found, where)
    elif _WORKER_METHODS.fullmatch(name) and "fork" in _texts(*node.args, *_values(node)):
        _fork(node, found, where)
    elif _PROCESS.fullmatch(name):
        _process(node, name, found, where)
    elif _LOADS_LIBRARY.fullmatch(name):
        _library(node, found, where)
    elif name in ("os.environ.setdefault", "os.putenv") and node.args:
        value = node.args[1] if len(node.args) > 1 else None
        environment(node, node.args[0], value, found, where)


def _method(node: ast.Call, method: str, found: Found, where: Where) -> None:
    if method == "cuda":
        given, reason = found.decision("cuda")
        message = f".cuda() moves to {given} here: {reason}"
        found.add(node, "tensor-cuda", message, where, about="Tensor.cuda", state="mapped")
    elif method == "double" and not node.args and not node.keywords:
        double(node, ".double()", found, where)


def double(node: ast.expr, what: str, found: Found, where: Where) -> None:
    """Add that float64, or complex128, is asked for, if the target lacks it."""
    if found.target == "mps":
        short = "complex64" if "complex" in what or "cdouble" in what else "float32"
        message = f"{what} gives {short} on mps, which has no float64"
        found.add(node, "float64", message, where, about="event downcast")


def _autocast(node: ast.Call, name: str, found: Found, where: Where) -> None:
    given = node.args[:1] or [k.value for k in node.keywords if k.arg in ("device_type", "device")]
    if given and _texts(given[0]) & {"cuda", "mps"}:
        target, reason = found.decision(next(iter(_texts(given[0]) & {"cuda", "mps"})))
        message = f"{name} acts on {target} here: {reason}"
        found.add(node, "autocast", message, where, about=name, state="mapped")


def _extension(node: ast.Call, what: str, found: Found, where: Where, extensions: set[str]) -> None:
    texts = _texts(*node.args, *_values(node))
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    in_cuda = any(text.endswith((".cu", ".cuh")) for text in texts)
    severity = None
    if what == "CUDAExtension":
        names = _texts(*node.args[:1], *([keywords["name"]] if "name" in keywords else []))
        if not where.dead:
            extensions |= {name for name in names if "/" not in name and not name.endswith(".cu")}
        message = "CUDAExtension builds from CUDA source, which needs nvcc"
    elif what == "load_inline" and "cuda_sources" in keywords:
        message = "load_inline compiles CUDA source, which needs nvcc"
    elif what == "load" and (in_cuda or "with_cuda" in keywords):
        message = "load compiles CUDA source, which needs nvcc"
    elif what == "load" and not any(text.endswith((".cpp", ".cc", ".c", ".mm")) for text in texts):
        # The list of sources is made elsewhere.
        severity = Severity.WARNING
        message = "load compiles sources that may be CUDA's, which need nvcc"
    else:
        return
    found.add(
        node,
        "cuda-extension-build",
        message,
        where,
        about=_EXTENSION + what,
        suggestion="Give the kernel a version in torch's own operators, and choose by the device.",
        caught=_BUILD_FAILURES,
        severity=severity,
    )


def _numbered(node: ast.Call, name: str, found: Found, where: Where) -> None:
    given = [*node.args[:1], *(k.value for k in node.keywords if k.arg == "device")]
    number = getattr(given[0], "value", None) if given else None
    if type(number) is int and number > 0:
        found.add(
            node,
            "device-number",
            f"{name}({number}) raises here, as there is one device, number 0",
            where,
            about=f"{name}()",
            suggestion="Take the number from an option, or write the device as a text.",
            caught=_NO_NUMBER,
        )


def _torch_load(node: ast.Call, name: str, found: Found, where: Where) -> None:
    given = [keyword.value for keyword in node.keywords if keyword.arg == "map_location"]
    given += node.args[1:2]
    target, _ = found.decision("cuda")
    if not given:
        message = f"storages that were saved on CUDA are loaded to {target}"
    elif any(text.partition(":")[0] in ("cuda", "mps") for text in _texts(given[0])):
        message = f"storages are loaded to {target} here"
    else:
        return  # the CPU, which is right everywhere, or what the program computes
    found.add(node, "saved-devices", message, where, about=name, state="mapped")


def _loader(node: ast.Call, found: Found, where: Where) -> None:
    for keyword in node.keywords:
        value = keyword.value
        constant = value.value if isinstance(value, ast.Constant) else None
        if keyword.arg == "multiprocessing_context" and constant == "fork":
            _fork(node, found, where)
        elif keyword.arg == "num_workers" and (constant or not isinstance(value, ast.Constant)):
            message = "tensors that worker processes make stay on the CPU"
            suggestion = "Move a batch to the device in the loop, not in the data set."
            found.add(value, "loader-workers", message, where, suggestion=suggestion)


def _fork(node: ast.Call, found: Found, where: Where) -> None:
    if found.target == "mps":
        found.add(
            node,
            "fork",
            "a process that is forked off one that used mps cannot use it",
            where,
            suggestion='Use "spawn", which works on every machine.',
        )


def _process(node: ast.Call, name: str, found: Found, where: Where) -> None:
    tools = {tool[1] for text in _texts(*node.args) if (tool := _TOOL.search(text)) is not None}
    if not tools:
        return
    given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
    by_shell = name in _QUIET or given.get("shell") is True
    checked = name.startswith("subprocess.check") or given.get("check") is True
    quiet = by_shell and not checked
    raised = "CalledProcessError" if by_shell else "FileNotFoundError"
    first = sorted(tools)[0]
    message = f"{first} is not there without NVIDIA's driver, so this "
    found.add(
        node,
        "nvidia-tool",
        message + ("gives nothing" if quiet else f"raises {raised}"),
        where,
        about=first,
        suggestion="Ask torch.cuda, which answers for the target, or ask shutil.which() first.",
        severity=Severity.WARNING if quiet else None,
        caught=_FAILURES | {raised},
    )


def _library(node: ast.Call, found: Found, where: Where) -> None:
    names = sorted(text for text in _texts(*node.args) if _LIBRARY.search(text))
    if names:
        found.add(
            node,
            "cuda-library",
            f"{names[0]} is not there without NVIDIA's driver, so this raises OSError",
            where,
            about=names[0],
            suggestion="Keep it behind a question for the device.",
            caught=_FAILURES,
        )


def environment(
    node: ast.expr, key: ast.expr, value: ast.expr | None, found: Found, where: Where
) -> None:
    """Look at a variable of the environment that is set."""
    name = key.value if isinstance(key, ast.Constant) else None
    if name == "CUDA_VISIBLE_DEVICES":
        hides = isinstance(value, ast.Constant) and str(value.value).strip() in ("", "-1")
        message = "CUDA_VISIBLE_DEVICES does not choose the target"
        if hides:
            message = "CUDA_VISIBLE_DEVICES hides CUDA's devices, and not the target"
        found.add(
            node,
            "visible-devices",
            message,
            where,
            about=name,
            severity=None if hides else Severity.NOTE,
            suggestion="Choose the device by torchdevice run --target.",
        )
    elif name == "PYTORCH_ENABLE_MPS_FALLBACK":
        message = "PYTORCH_ENABLE_MPS_FALLBACK is not needed: what mps lacks runs on the CPU"
        found.add(node, "mps-fallback", message, where, about=name, suggestion="Drop it.")
    elif name in _VARIABLES:
        message = f"{name} is read by {_VARIABLES[name]} only, and has no effect here"
        found.add(node, "cuda-variable", message, where, about=str(name))


def _texts(*nodes: ast.expr) -> set[str]:
    """All texts in expressions."""
    return set(_walk(*nodes))


def _walk(*nodes: ast.expr) -> Iterator[str]:
    for node in nodes:
        for part in ast.walk(node):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.value


def _values(node: ast.Call) -> list[ast.expr]:
    return [keyword.value for keyword in node.keywords]

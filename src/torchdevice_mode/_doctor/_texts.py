"""Checks of text: device strings, formatted ones, names of backends and of tensor types."""

from __future__ import annotations

import ast
import re

from ._flow import Where
from ._found import Found
from ._names import Scope, dotted, last_name

__all__ = ["DEVICE", "IGNORED", "is_autocast", "is_choice", "joined", "roles", "text"]

COMPARED, IGNORED, PLACE = "compared", "ignored", "place"
"""What a text is there for: to compare with, for something else than a device, or for a device."""

DEVICE = re.compile(r"(cuda|mps)(:(\d{1,3}|%[ds]|\{\w*\})?)?")
_PLACE = re.compile(r"(cuda|mps|cpu|xpu|hpu|npu|xla|mtia)(:(-?\d{1,3}|%[ds]|\{\w*\})?)?")
_AUTOCAST = re.compile(
    r"torch\.(amp\.)?(autocast_mode\.)?(autocast|GradScaler|custom_fwd|custom_bwd)"
)
_TYPE = re.compile(r"torch\.cuda\.(\w+Tensor)")
# Methods of text, and functions for which a text such as "cuda" is no device.
_NO_DEVICE = frozenset(
    [
        "startswith",
        "endswith",
        "replace",
        "split",
        "rsplit",
        "partition",
        "rpartition",
        "find",
        "rfind",
        "index",
        "count",
        "strip",
        "lstrip",
        "rstrip",
        "removeprefix",
        "removesuffix",
        "join",
        "print",
        "getattr",
        "hasattr",
        "setattr",
        "delattr",
        "isinstance",
        "debug",
        "info",
        "warning",
        "error",
        "exception",
        "log",
        "write",
        "add_scalar",
        "ValueError",
        "RuntimeError",
        "KeyError",
        "TypeError",
        "AssertionError",
        "NotImplementedError",
        "warn",
        "compile",
        "match",
        "search",
        "sub",
        "mark",
        "skipif",
        "parametrize",
        "find_spec",
        "import_module",
        "getenv",
    ]
)
_NO_DEVICE_KEYWORDS = frozenset(
    [
        "choices",
        "help",
        "description",
        "name",
        "dest",
        "title",
        "metavar",
        "label",
        "reason",
        "msg",
        "message",
        "prefix",
        "suffix",
        "sep",
        "end",
        "id",
        "ids",
        "extra",
        "key",
        "group",
    ]
)
_PLACES = frozenset({"device", "device_type", "output_device", "device_map"})


def is_autocast(name: str | None) -> bool:
    """Whether a name is that of mixed precision for a device that is named in the call."""
    return name is not None and _AUTOCAST.fullmatch(name) is not None


def roles(node: ast.expr, scope: Scope) -> dict[int, str]:
    """What the texts right below an expression are there for, by identity of their nodes."""
    found: dict[int, str] = {}
    if isinstance(node, ast.Call):
        called = last_name(node.func)
        if called in _NO_DEVICE:
            found.update((id(argument), IGNORED) for argument in node.args)
        elif is_autocast(dotted(node.func, scope)):
            # The call is told of as a whole.
            found.update((id(argument), IGNORED) for argument in node.args[:1])
            found.update((id(k.value), IGNORED) for k in node.keywords if k.arg == "device_type")
            return found
        elif called == "to" or dotted(node.func, scope) == "torch.device":
            found.update((id(argument), PLACE) for argument in node.args[:1])
        for keyword in node.keywords:
            if keyword.arg in _NO_DEVICE_KEYWORDS:
                found[id(keyword.value)] = IGNORED
            elif keyword.arg in _PLACES:
                found[id(keyword.value)] = PLACE
    elif isinstance(node, ast.Compare):
        found.update((id(side), COMPARED) for side in (node.left, *node.comparators))
    elif isinstance(node, ast.Dict):
        found.update((id(key), IGNORED) for key in node.keys if key is not None)
    elif isinstance(node, ast.Subscript):
        found[id(node.slice)] = IGNORED
    elif isinstance(node, ast.JoinedStr):
        found.update((id(part), IGNORED) for part in node.values if isinstance(part, ast.Constant))
    return found


def handed_down(node: ast.expr, role: str) -> dict[int, str]:
    """The role of an expression's parts where they stand for the whole."""
    parts: list[ast.expr] = []
    if isinstance(node, ast.IfExp):
        parts = [node.body, node.orelse]
    elif isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        parts = node.elts
    elif isinstance(node, ast.BoolOp):
        parts = node.values
    elif isinstance(node, ast.BinOp):
        parts = [node.left, node.right]
    return {id(part): role for part in parts}


def text(node: ast.Constant, role: str, found: Found, where: Where) -> None:
    """Look at a text."""
    value = node.value
    if not isinstance(value, str) or role in (IGNORED, COMPARED) or len(value) > 40:
        return
    kind = _TYPE.fullmatch(value)
    if kind is not None:
        found.add(
            node,
            "tensor-type",
            f"{value!r} means tensors of that dtype on the target",
            where,
            about=value,
            state="mapped",
        )
    elif value == "nccl":
        found.add(
            node,
            "nccl",
            "gloo serves where NCCL is asked for",
            where,
            about="torch.distributed.init_process_group",
            state="mapped",
        )
    elif DEVICE.fullmatch(value) or (role == PLACE and _PLACE.fullmatch(value)):
        _device(node, value, found, where)


def _device(node: ast.expr, value: str, found: Found, where: Where) -> None:
    kind, _, index = value.partition(":")
    plain = value if not index or index.lstrip("-").isdigit() else kind
    given, reason = found.decision(plain.rstrip(":"))
    if given == plain.rstrip(":"):
        message = f"{value!r} names a device: {reason}"
    else:
        message = f"{value!r} means {given} here: {reason}"
    if kind == "cpu":
        found.add(node, "cpu-device", message, where, about="device string", suggestion="")
    else:
        found.add(node, "device-string", message, where, about="device string", state="mapped")


def joined(node: ast.JoinedStr, role: str, found: Found, where: Where) -> None:
    """Look at a formatted text such as `f"cuda:{index}"`."""
    first, *others = node.values or [ast.Constant("")]
    if role in (IGNORED, COMPARED) or not isinstance(first, ast.Constant):
        return
    if first.value in ("cuda:", "cuda", "mps:") and all(
        isinstance(part, ast.FormattedValue) for part in others
    ):
        kind = first.value.rstrip(":")
        given, reason = found.decision(kind)
        if given == kind:
            message = f"a numbered {kind} device is named: {reason}"
        else:
            message = f"a numbered {kind} device means {given} here, whatever its number: {reason}"
        found.add(
            node,
            "device-string",
            message,
            where,
            about="device string",
            state="mapped",
        )


def is_choice(node: ast.IfExp, scope: Scope) -> bool:
    """Whether it chooses a device by what there is: `"cuda" if is_available() else "cpu"`."""
    asks = any(
        isinstance(part, ast.Call) and last_name(part.func) == "is_available"
        for part in ast.walk(node.test)
    )
    return asks and _is_device(node.body, scope) and _is_device(node.orelse, scope)


def _is_device(node: ast.expr, scope: Scope) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and _PLACE.fullmatch(node.value) is not None
    if isinstance(node, ast.Call) and dotted(node.func, scope) == "torch.device":
        return bool(node.args) and _is_device(node.args[0], scope)
    if isinstance(node, ast.JoinedStr):
        first = node.values[0] if node.values else None
        return isinstance(first, ast.Constant) and str(first.value).startswith(("cuda", "mps"))
    return isinstance(node, ast.IfExp) and is_choice(node, scope)

"""Names of torch that a source file mentions, by line: what a suggestion can be about."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator

from .._suggestions import for_name

__all__ = ["names_by_line"]

_DEVICE = re.compile(r"(cuda|mps|xpu|hpu|npu|mtia)(:\d*)?")
_TENSOR_TYPE = re.compile(r"torch\.cuda\.\w+Tensor")
# Called: `args.cuda` is most often an option of the program.
_METHODS = frozenset({"cuda", "cpu", "get_device", "pin_memory"})
# Calls that are told as a whole: what they are given is not told again.
_WHOLE = frozenset(
    {
        *("torch.autocast", "torch.amp.autocast", "torch.amp.GradScaler", "torch.Generator"),
        *("torch.cuda.amp.autocast", "torch.cuda.amp.GradScaler", "torch.load"),
        "torch.distributed.init_process_group",
    }
)


def names_by_line(source: str) -> dict[int, tuple[str, ...]]:
    """Read a program, without running it.

    Args:
        source: The text of a file.

    Returns:
        For each line, the names in the statement that it belongs to, as `_suggestions.for_name`
        takes them; nothing where Python cannot parse the text.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that are none, once more
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    aliases = _aliases(tree)
    found: dict[int, tuple[str, ...]] = {}
    for statement in ast.walk(tree):
        if isinstance(statement, (ast.stmt, ast.ExceptHandler)):
            names = tuple(dict.fromkeys(_names(statement, aliases, top=True)))
            if names:
                for line in _lines(statement):
                    found[line] = tuple(dict.fromkeys((*found.get(line, ()), *names)))
    return found


def _aliases(tree: ast.AST) -> dict[str, str]:
    """What names of the file stand for, as its imports say."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    found[alias.asname] = alias.name
                else:
                    root = alias.name.partition(".")[0]
                    found[root] = root
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def _lines(statement: ast.AST) -> range:
    """The lines of a statement; of one with a body, those before it."""
    first = min(
        (node.lineno for node in getattr(statement, "decorator_list", ())),
        default=getattr(statement, "lineno", 0),
    )
    body = getattr(statement, "body", None)
    if isinstance(body, list) and body:
        return range(first, max(body[0].lineno, first + 1))
    return range(first, (getattr(statement, "end_lineno", None) or first) + 1)


def _names(node: ast.AST, aliases: dict[str, str], *, top: bool = False) -> Iterator[str]:
    """Names in an expression, or in a statement without the statements inside it."""
    if isinstance(node, (ast.stmt, ast.ExceptHandler, ast.Import)) and not top:
        return
    if isinstance(node, ast.IfExp) and _is_choice(node):
        yield "device choice"
        yield from _names(node.test, aliases)
        return
    if isinstance(node, ast.Call):
        name = _dotted(node.func, aliases)
        if name in _WHOLE:
            yield name
            return
        is_torchs = name is not None and name.startswith("torch.")
        if isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS and not is_torchs:
            yield f"Tensor.{node.func.attr}"
    if isinstance(node, ast.Attribute):
        name = _dotted(node, aliases)
        if name is not None and name.startswith("torch."):
            if for_name(name) is not None and name != "torch.device":
                yield name
            return
        if node.attr == "is_cuda":
            yield "Tensor.is_cuda"
    elif isinstance(node, ast.Name):
        name = aliases.get(node.id, "")
        if name.startswith("torch.") and for_name(name) is not None and name != "torch.device":
            yield name
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        if _DEVICE.fullmatch(node.value):
            yield "device string"
        elif _TENSOR_TYPE.fullmatch(node.value):
            yield "Tensor.type"
    elif isinstance(node, ast.keyword) and node.arg == "device" and _is_number(node.value):
        yield "device index"
    for child in ast.iter_child_nodes(node):
        yield from _names(child, aliases)


def _is_choice(node: ast.IfExp) -> bool:
    """Whether an expression chooses between an accelerator and the CPU, as in so many programs."""
    # Each as it stands, or in `torch.device(...)`.
    ends = [
        end.args[0] if isinstance(end, ast.Call) and len(end.args) == 1 else end
        for end in (node.body, node.orelse)
    ]
    texts = {str(end.value) for end in ends if isinstance(end, ast.Constant)}
    return len(texts) == 2 and "cpu" in texts and any(map(_DEVICE.fullmatch, texts))


def _is_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int


def _dotted(node: ast.AST, aliases: dict[str, str]) -> str | None:
    """The dotted name that an expression is, with what its imports stand for; else None."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return ".".join([aliases.get(node.id, node.id), *reversed(parts)])

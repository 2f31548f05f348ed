"""float64 in TorchScript programs: cast down in a copy of the graph, and where one is loaded.

The interpreter calls operators with dtypes that were compiled in, past every mode, and what it
raises half way cannot be made good. So a program that names float64, and is given tensors of a
target that lacks it, is run from a copy that names float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch

from .._dtypes import NARROWER

__all__ = ["cast_down", "names_float64", "place", "attributes"]

# `torch.dtype` is a number in a graph: that of C++'s ScalarType.
_DOUBLE, _COMPLEX_DOUBLE = 7, 10
_NARROWER = {_DOUBLE: 6, _COMPLEX_DOUBLE: 9}


def names_float64(graph: Any) -> bool:
    """Whether a graph asks an operator for float64 or complex128."""
    return any(True for _ in _requests(graph))


def cast_down(graph: Any) -> None:
    """Have a graph ask for float32 and complex64 instead."""
    for node, position, wide in list(_requests(graph)):
        narrow = graph.insertConstant(_NARROWER[wide])
        narrow.node().moveBefore(node)
        node.replaceInput(position, narrow)
    # A traced graph knows dtypes of what it computes, and these are others now.
    torch._C._jit_pass_erase_shape_information(graph)


def _requests(graph: Any) -> Iterator[tuple[Any, int, int]]:
    """Nodes that ask for float64, which of their inputs says so, and what it says."""
    for node in _nodes(graph):
        position = _dtype_position(node.schema()) if node.kind().startswith("aten::") else None
        if position is None:
            continue
        source = list(node.inputs())[position].node()
        if source.kind() == "prim::Constant" and source.output().type().kind() == "IntType":
            dtype = source.output().toIValue()
            if dtype in _NARROWER:
                yield node, position, dtype


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


@cache
def _dtype_position(schema: str) -> int | None:
    try:
        arguments = torch._C.parse_schema(schema).arguments
    except RuntimeError:  # "(no schema)"
        return None
    return next((i for i, argument in enumerate(arguments) if argument.name == "dtype"), None)


# --- what is loaded -----------------------------------------------------------------------------


def place(module: Any, device: torch.device, *, keep_wide: bool) -> None:
    """Bring the tensors of a program that was loaded on the CPU to a target without float64.

    Args:
        module: The program, as `torch.jit.load` returns it.
        device: The target.
        keep_wide: Whether float64 stays on the CPU, or is cast down.
    """

    def placed(tensor: torch.Tensor) -> torch.Tensor:
        if keep_wide and tensor.dtype in NARROWER:
            return tensor
        return tensor.to(NARROWER.get(tensor.dtype, tensor.dtype)).to(device)

    with torch.no_grad(), torch._C.DisableTorchFunction():
        module._apply(placed)
        for part in module.modules():
            held = getattr(part, "_c", None)
            if held is None:
                continue
            known = {*part._parameters.keys(), *part._buffers.keys()}
            for name in attributes(held, "TensorType") - known:
                held.setattr(name, placed(held.getattr(name)))
            _place_constants(held, placed)


def _place_constants(held: Any, placed: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Tensors that are written into the program itself."""
    for method in held._method_names():
        graph = held._get_method(method).graph
        for node in graph.findAllNodes("prim::Constant", recurse=True):
            if node.hasAttribute("value") and node.kindOf("value") == "t":
                node.t_("value", placed(node.t("value")))
                node.output().inferTypeFrom(node.t("value"))


def attributes(held: Any, kind: str) -> set[str]:
    """Names of a module's attributes of a kind of type, as far as its methods read them.

    Args:
        held: A module of C++.
        kind: As TorchScript calls it, such as `"TensorType"`.
    """
    found = set()
    for method in held._method_names():
        graph = held._get_method(method).graph
        own = next(graph.inputs()).debugName()
        for node in graph.findAllNodes("prim::GetAttr", recurse=True):
            if node.output().type().kind() == kind and next(node.inputs()).debugName() == own:
                found.add(node.s("name"))
    return found

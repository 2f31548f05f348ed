"""TorchScript: its interpreter calls operators from C++, with devices that were baked in.

A call of a scripted function is not a torch function, so no function mode sees it, and TorchScript
refuses some requests (`x.to("cuda")`) before any dispatch mode could. So where a program names an
accelerator, a copy of its graph is run in which the device is replaced; the program itself stays
as it is, and is saved as it was written. Its files are the business of `script_files.py`.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.jit.annotations
from torch.utils._pytree import tree_leaves

from .._active import current
from .._context import Context
from .._out_of_memory import reports_out_of_memory
from .._patches import original_of
from .._spec import parse
from ._script_float64 import cast_down, names_float64

__all__ = ["answering", "known_annotation"]

_NOT_ON_CPU = (
    'torchdevice was told float64="cpu", which does not reach into TorchScript: say '
    'float64="downcast", or move the program and what it is given to the CPU.'
)
_PLAIN_CLASSES = {"Generator": torch._C.Generator, "Stream": torch._C.Stream}


class _Reading(NamedTuple):
    """What a program says of devices.

    Attributes:
        requests: The accelerators that its graph names.
        takes_device: Names of arguments that are devices, which may be given as strings.
        arguments: The arguments of its schema.
        non_blocking: Whether it copies asynchronously.
        names_float64: Whether it asks for that dtype.
    """

    requests: frozenset[str]
    takes_device: frozenset[str]
    arguments: tuple[Any, ...]
    non_blocking: bool
    names_float64: bool


_NOTHING = _Reading(frozenset(), frozenset(), (), False, False)

# A graph does not change once it is compiled, and reading it costs more than most calls.
_readings: weakref.WeakKeyDictionary[Any, _Reading] = weakref.WeakKeyDictionary()
_rewritten: weakref.WeakKeyDictionary[Any, dict[tuple[str, ...], Any]] = weakref.WeakKeyDictionary()
_call_function = original_of(torch._C.ScriptFunction.__call__)


def _read(program: Any) -> _Reading:
    found = _readings.get(program)
    if found is None:
        # Nodes die with their graph, so it is held while they are read.
        try:
            graph = program.inlined_graph
        except RuntimeError:  # a method of a class in C++, such as packed weights
            return _readings.setdefault(program, _NOTHING)
        requests = {node.s("value") for part in _parts(graph) for node in _named_devices(part)}
        for kind in ("aten::cuda", "prim::is_cuda"):
            if any(part.findAllNodes(kind, recurse=True) for part in _parts(graph)):
                requests.add("cuda")
        arguments = tuple(program.schema.arguments)
        takes_device = frozenset(a.name for a in arguments if "Device" in str(a.type))
        waits = not any(_asynchronous_copies(part) for part in _parts(graph))
        wide = any(names_float64(part) for part in _parts(graph))
        found = _Reading(frozenset(requests), takes_device, arguments, not waits, wide)
        _readings[program] = found
    return found


def _parts(graph: Any) -> Iterator[Any]:
    """A graph, and those that it forks, with what they call written out."""
    yield graph
    for node in graph.findAllNodes("prim::fork", recurse=True):
        forked = node.g("Subgraph")
        torch._C._jit_pass_inline(forked)
        yield from _parts(forked)


def _named_devices(graph: Any) -> Iterator[Any]:
    """The constants in a graph that name an accelerator."""
    for node in graph.findAllNodes("prim::Constant", recurse=True):
        if (
            node.output().type().kind() == "DeviceObjType"
            and node.hasAttribute("value")
            and parse(node.s("value")).is_accelerator
        ):
            yield node


def _with_other_devices(graph: Any, given: dict[str, str]) -> None:
    """Replace the accelerators that a graph names, and its uses of `Tensor.cuda` and `is_cuda`."""
    for part in _parts(graph):
        for node in part.findAllNodes("aten::cuda", recurse=True):
            _move_in_place_of(part, node)
        for node in part.findAllNodes("prim::is_cuda", recurse=True):
            kind = given.get("cuda", "cuda").partition(":")[0]
            _replace(part, node, f"prim::is_{kind}", [next(node.inputs())])
        for node in _named_devices(part):
            request = node.s("value")
            node.s_("value", given.get(request, request))


def _asynchronous_copies(graph: Any) -> list[tuple[Any, int]]:
    """The nodes that copy without waiting, and which of their inputs says so."""
    found = []
    for kind in ("aten::to", "aten::copy_", "aten::_to_copy"):
        for node in graph.findAllNodes(kind, recurse=True):
            names = [a.name for a in torch._C.parse_schema(node.schema()).arguments]
            position = names.index("non_blocking") if "non_blocking" in names else len(names)
            if position < node.inputsSize() and node.inputsAt(position).toIValue():
                found.append((node, position))
    return found


def _wait_for_copies(graph: Any) -> None:
    """Make each copy blocking: on MPS others corrupt data."""
    for part in _parts(graph):
        for node, position in _asynchronous_copies(part):
            no = part.insertConstant(False)
            no.node().moveBefore(node)
            node.replaceInput(position, no)


def _move_in_place_of(graph: Any, node: Any) -> None:
    """Put `x.to("cuda")`, whose device can be replaced, where `x.cuda()` is."""
    with torch._C.DisableTorchFunction():
        device = graph.insertConstant(torch.device("cuda"))
    nothing, no = graph.insertConstant(None), graph.insertConstant(False)
    for constant in (device, nothing, no):
        constant.node().moveBefore(node)
    _replace(graph, node, "aten::to", [next(node.inputs()), device, nothing, no, no])


def _replace(graph: Any, node: Any, kind: str, inputs: list[Any]) -> None:
    new = graph.create(kind, inputs, 1)
    new.insertBefore(node)
    new.output().setType(node.output().type())
    node.output().replaceAllUsesWith(new.output())
    node.destroy()


def answering(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    @reports_out_of_memory
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        context = current()
        if context is None:
            return call(self, *args, **kwargs)
        reading = _read(self)
        frame = sys._getframe(1)
        if reading.takes_device:
            args, kwargs = _with_devices(context, self, reading, args, kwargs)
        given = {}
        for request in reading.requests:
            device = context.device_for(request, frame)
            if device is not None and str(device) != request:
                given[request] = str(device)
        waits = reading.non_blocking and context.target.type == "mps"
        narrow = reading.names_float64 and _meets_target(context, self, args, kwargs)
        if narrow:
            from .._downcast import note_downcast

            note_downcast(context, self.name, frame)
        with _explained(context):
            if not given and not waits and not narrow:
                return call(self, *args, **kwargs)
            positional = _bound(self, reading, args, kwargs)
            if positional is None:
                return call(self, *args, **kwargs)  # torch's own error
            program = _rewritten_for(self, given, waits=waits, narrow=narrow)
            return _call_function(program, *positional)

    return run


def _meets_target(context: Context, program: Any, args: Any, kwargs: Any) -> bool:
    """Whether float64 is to be cast down in a program that is called with these arguments."""
    if not context.lacks_float64 or context.settings.float64 != "downcast":
        return False
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    if any(tensor.device.type == context.target.type for tensor in tensors):
        return True
    # It may make tensors there, or hold some.
    return bool(_read(program).requests) or getattr(program, "owner", None) is not None


@contextmanager
def _explained(context: Context) -> Iterator[None]:
    """Say what the setting has to do with it where the interpreter is refused float64."""
    try:
        yield
    except RuntimeError as error:
        from .._downcast import IN_CPP, refused_dtype
        from .._float64 import explain_refusal

        if refused_dtype(str(error)) in IN_CPP and context.lacks_float64:
            if context.settings.float64 == "error":
                explain_refusal(error)
            elif context.settings.float64 == "cpu":
                error.args = (f"{str(error).rstrip()} {_NOT_ON_CPU}",)
        raise


def _rewritten_for(program: Any, given: dict[str, str], *, waits: bool, narrow: bool) -> Any:
    """The program with other devices and dtypes; made once for each that it may have to name."""
    key = (str(waits), str(narrow), *(text for pair in sorted(given.items()) for text in pair))
    versions = _rewritten.setdefault(program, {})
    if key not in versions:
        graph = program.inlined_graph  # a copy
        _with_other_devices(graph, given)
        if waits:
            _wait_for_copies(graph)
        if narrow:
            for part in _parts(graph):
                cast_down(part)
        versions[key] = torch._C._create_function_from_graph(program.name, graph)
    return versions[key]


def _bound(
    program: Any, reading: _Reading, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[Any] | None:
    """All arguments by position, as the rewritten program takes them; None where they do not fit.

    A method's program takes its module first.
    """
    owner = getattr(program, "owner", None)
    values: list[Any] = [*args] if owner is None else [owner, *args]
    arguments = reading.arguments
    if len(values) > len(arguments):
        return None
    left = dict(kwargs)
    for argument in arguments[len(values) :]:
        if argument.name in left:
            values.append(left.pop(argument.name))
        elif argument.has_default_value():
            values.append(argument.default_value)
        else:
            return None
    return None if left else values


def _with_devices(
    context: Context, program: Any, reading: _Reading, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with devices that are given as strings read by the policy."""
    names = [argument.name for argument in reading.arguments]
    if getattr(program, "owner", None) is not None:
        names = names[1:]

    def read(name: str, value: Any) -> Any:
        if name in reading.takes_device and isinstance(value, str) and parse(value).is_accelerator:
            device = context.device_for(value, sys._getframe(3))
            return value if device is None else device
        return value

    pairs: Iterable[tuple[str, Any]] = zip(names, args, strict=False)
    new_args = tuple([read(name, value) for name, value in pairs]) + args[len(names) :]
    return new_args, {name: read(name, value) for name, value in kwargs.items()}


# --- annotations --------------------------------------------------------------------------------


def known_annotation(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def try_ann_to_type(ann: Any, *args: Any, **kwargs: Any) -> Any:
        for name, plain in _PLAIN_CLASSES.items():
            if ann is plain:
                ann = getattr(torch, name)
        return original(ann, *args, **kwargs)

    return try_ann_to_type

"""What a capture keeps of each operator, and how it runs again.

An operator is kept with aliases of its tensors, so that it finds the memory it had even if the
program gives the tensor object other memory later. Aliases have version counters of their own:
a replay is not seen by autograd, as on CUDA.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch

__all__ = ["Recorder", "Tape"]

# Read results on the host, though torch's tags do not say so.
_READ_BY_NAME = frozenset(
    {
        "aten::is_nonzero",
        "aten::_linalg_check_errors",
        "aten::_coalesce",
        "aten::_to_sparse",
        "aten::_to_sparse_csr",
        "aten::_to_sparse_csc",
        "aten::_to_sparse_bsr",
        "aten::_to_sparse_bsc",
    }
)
# Give memory, or say something about it, and compute nothing.
_WITHOUT_WORK = frozenset(
    {
        "aten::empty",
        "aten::empty_strided",
        "aten::empty_like",
        "aten::empty_permuted",
        "aten::new_empty",
        "aten::new_empty_strided",
        "aten::record_stream",
        "aten::lift",
        "aten::lift_fresh",
    }
)
# Written although the schema does not say so.
_RUNNING = ("running_mean", "running_var")
_MASKS = (torch.bool, torch.uint8)


class _Kind(NamedTuple):
    """What an operator's schema and tags say, worked out once."""

    written: tuple[tuple[str, int], ...]
    reads: bool
    shapes_by_data: bool
    without_work: bool


_kinds: dict[Any, _Kind] = {}


def _kind(func: Any) -> _Kind:
    found = _kinds.get(func)
    if found is None:
        schema, tags = func._schema, func.tags
        running = _RUNNING if "batch_norm" in schema.name else ()
        found = _kinds[func] = _Kind(
            written=tuple(
                (argument.name, position)
                for position, argument in enumerate(schema.arguments)
                if (argument.alias_info is not None and argument.alias_info.is_write)
                or argument.name in running
            ),
            reads=torch.Tag.data_dependent_output in tags or schema.name in _READ_BY_NAME,
            shapes_by_data=torch.Tag.dynamic_output_shape in tags,
            without_work=torch.Tag.inplace_view in tags or schema.name in _WITHOUT_WORK,
        )
    return found


class _Step:
    """One operator, the aliases that it is called with, and where its results go."""

    __slots__ = ("args", "func", "kwargs", "places")

    def __init__(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        places: list[tuple[int, torch.Tensor]],
    ) -> None:
        self.func = func
        self.args = args
        self.kwargs = kwargs
        self.places = places

    def run(self) -> None:
        results = self.func(*self.args, **self.kwargs)
        if not self.places:
            return
        given = list(_leaves(results))
        for position, place in self.places:
            _put(self.func, given[position], place)


class Tape:
    """The operators of a capture, in the order in which they were called.

    Args:
        steps: What to run.
        inputs: Storages from outside of the capture, and how many aliases of each are held here.
    """

    def __init__(
        self,
        steps: list[Callable[[], None]],
        inputs: list[tuple[torch.UntypedStorage, int]],
    ) -> None:
        self.steps = steps
        self._inputs = inputs

    def replay(self) -> None:
        """Run the operators again, past autograd, autocast and every mode."""
        with (
            torch._C.DisableTorchFunction(),
            torch._C._DisableTorchDispatch(),
            torch._C._DisableAutocast(),
            torch._C._AutoDispatchBelowAutograd(),
            torch.inference_mode(False),
            # Some kernels compute less without gradients: the steps set what they had.
            torch.no_grad(),
        ):
            for step in self.steps:
                step()

    def dot(self) -> str:
        """The operators as a graph in the DOT language: each after the one before it."""
        names = [getattr(getattr(step, "__self__", None), "func", "event") for step in self.steps]
        lines = [f'  {number} [label="{name}"];' for number, name in enumerate(names)]
        lines += [f"  {number} -> {number + 1};" for number in range(len(names) - 1)]
        return "\n".join(("digraph capture {", *lines, "}", ""))

    def dead_inputs(self) -> int:
        """How many storages from outside of the capture are held by nobody else any more."""
        count = torch._C._storage_Use_Count
        return sum(count(storage._cdata) <= ours for storage, ours in self._inputs)


class Recorder:
    """Records operators while they run.

    Args:
        device: The target: what does not touch it is not recorded.
        generator: Draws the random numbers of the target.
    """

    def __init__(self, device: torch.device, generator: torch.Generator) -> None:
        self._device = device
        self._steps: list[Callable[[], None]] = []
        self._with_gradients = False
        # By the address of a storage: those that the capture made, copies of those that it
        # found and wrote into, and how many aliases of each are held.
        self._made: dict[int, torch.UntypedStorage] = {}
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._found: dict[int, tuple[torch.UntypedStorage, int]] = {}
        # Generators and their states, which a capture does not advance.
        self._generators = [(generator, generator.get_state())]

    # --- what cannot be replayed ----------------------------------------------------------------

    def why_not(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], asynchronous: bool
    ) -> str | None:
        """Why an operator cannot be replayed; None if it can."""
        kind = _kind(func)
        if not (kind.reads or kind.shapes_by_data) and func.namespace == "aten":
            name = func._schema.name
            if name in {"aten::index_put_", "aten::_index_put_impl_"}:
                values = args[2]
                if values.numel() != 1 and _has_mask(args[1]):
                    return f"{name} with a mask takes as many values as the mask has elements set"
            elif name in {"aten::copy_", "aten::_to_copy"}:
                return self._why_not_copied(name, args, kwargs, asynchronous)
            return None
        if not any(self._is_on_target(tensor) for tensor in _tensors((args, kwargs))):
            return None
        name = func._schema.name
        if kind.reads:
            return f"{name} reads a tensor on the host"
        if not kind.shapes_by_data:
            return None
        if name == "aten::index" and not _has_mask(args[1]):
            return None
        if name == "aten::repeat_interleave" and kwargs.get("output_size") is not None:
            return None
        return f"{name} gives a result whose shape depends on the values"

    def _why_not_copied(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], asynchronous: bool
    ) -> str | None:
        """A copy to the host waits for the device, unless it was asked not to."""
        if asynchronous or self._device.type == "cpu":
            return None
        if name == "aten::copy_":
            source, host = args[1], args[0].device.type == "cpu"
        else:
            source, device = args[0], kwargs.get("device")
            host = device is not None and device.type == "cpu"
        if host and self._is_on_target(source):
            return f"{name} copies a tensor to the host and waits for it"
        return None

    def _is_on_target(self, tensor: torch.Tensor) -> bool:
        return tensor.device.type == self._device.type

    # --- recording ------------------------------------------------------------------------------

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator, and record it where it touches the target."""
        kind = _kind(func)
        given = list(_tensors((args, kwargs)))
        if kind.written and not kind.without_work:
            for name, position in kind.written:
                value = args[position] if position < len(args) else kwargs.get(name)
                for tensor in _tensors(value):
                    self._keep(tensor)
        self._keep_generators(args, kwargs)
        out = func(*args, **kwargs)
        results = list(_leaves(out))
        tensors = [result for result in results if isinstance(result, torch.Tensor)]
        if not any(self._is_on_target(tensor) for tensor in (*given, *tensors)):
            return out
        held = {address for tensor in given for address in _storages(tensor)}
        fresh = []
        for position, result in enumerate(results):
            if not isinstance(result, torch.Tensor):
                continue
            found = _storages(result)
            if not held.isdisjoint(found):
                continue
            self._made.update(found)
            fresh.append((position, result))
        # A view of what is there already needs no work.
        works = fresh or kind.written or not tensors
        if works and not kind.without_work:
            if torch.is_grad_enabled() is not self._with_gradients:
                self._with_gradients = not self._with_gradients
                self._steps.append(partial(torch._C._set_grad_enabled, self._with_gradients))
            step = _Step(
                func,
                self._aliased(args),
                self._aliased(kwargs),
                [(position, _alias(result)) for position, result in fresh],
            )
            self._steps.append(step.run)
        return out

    def add(self, step: Callable[[], None]) -> None:
        """Record something that is no operator."""
        self._steps.append(step)

    def read_state(self, generator: torch.Generator, state: torch.Tensor) -> None:
        """Record that a state was read into a tensor: recomputation sets it again later."""

        def read() -> None:
            state.copy_(generator.get_state())

        self._steps.append(read)

    def _aliased(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            for address, storage in _storages(value).items():
                if address not in self._made:
                    _, ours = self._found.get(address, (storage, 0))
                    self._found[address] = storage, ours + 1
            return _alias(value)
        if isinstance(value, (tuple, list)):
            return type(value)(self._aliased(each) for each in value)
        if isinstance(value, dict):
            return {name: self._aliased(each) for name, each in value.items()}
        if isinstance(value, torch.device) and value.type not in {"cpu", "meta"}:
            return self._device  # a mode below may have rewritten it
        return value

    def tape(self) -> Tape:
        """What was recorded."""
        # Each input has one holder besides its aliases: the object in the list.
        inputs = [(storage, ours + 1) for storage, ours in self._found.values()]
        return Tape(self._steps, inputs)

    # --- taking back what ran while it was recorded ---------------------------------------------

    def _keep_generators(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for value in (*args, *kwargs.values()):
            if isinstance(value, torch.Generator) and all(
                known is not value for known, _ in self._generators
            ):
                self._generators.append((value, value.get_state()))

    def _keep(self, tensor: torch.Tensor) -> None:
        """Copy the memory of a tensor from outside of the capture before it is written."""
        if not self._is_on_target(tensor):
            return
        for address, storage in _storages(tensor).items():
            if address not in self._made and address not in self._before and storage.nbytes():
                memory = torch.empty(0, dtype=torch.uint8, device=storage.device)
                memory.set_(storage)
                self._before[address] = memory, memory.clone()

    def take_back(self) -> None:
        """Undo what the operators did outside of the capture."""
        with torch._C.DisableTorchFunction(), torch.no_grad():
            for memory, before in self._before.values():
                memory.copy_(before)
            for generator, state in self._generators:
                generator.set_state(state)
        self._before.clear()
        self._made.clear()


# --- tensors ------------------------------------------------------------------------------------


def _leaves(value: Any) -> Iterator[Any]:
    """What an operator's arguments or results hold: they nest in lists at most."""
    if isinstance(value, (tuple, list)):
        for each in value:
            yield from _leaves(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _leaves(each)
    else:
        yield value


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors among them."""
    return (each for each in _leaves(value) if isinstance(each, torch.Tensor))


def _parts(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The dense tensors that a sparse one consists of."""
    layout = tensor.layout
    if layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return (tensor,)


def _storages(tensor: torch.Tensor) -> dict[int, torch.UntypedStorage]:
    """The storages of a tensor by their addresses as objects."""
    if tensor.layout is torch.strided:
        storage = tensor.untyped_storage()
        return {storage._cdata: storage}
    if tensor.layout is torch._mkldnn:  # type: ignore[attr-defined]
        return {}
    found = (part.untyped_storage() for part in _parts(tensor))
    return {storage._cdata: storage for storage in found}


def _alias(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory as another object: with its own version counter, and without autograd."""
    if not (tensor.is_inference() and tensor.layout is torch.strided):
        return tensor.data
    # One that can be written outside of inference mode as well.
    with torch.inference_mode(False):
        made = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        place = tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride()
        made.set_(*place)
        made = made.conj() if tensor.is_conj() else made
        return torch._neg_view(made) if tensor.is_neg() else made


def _has_mask(indices: Any) -> bool:
    return any(isinstance(index, torch.Tensor) and index.dtype in _MASKS for index in indices)


def _put(func: Any, value: torch.Tensor, place: torch.Tensor) -> None:
    """Copy a result into the memory that the capture gave it."""
    if value.layout is not torch.strided:
        for part, of_place in zip(_parts(value), _parts(place), strict=True):
            _put(func, part, of_place)
        return
    if value.shape != place.shape:
        raise RuntimeError(
            f"{func} gave a result of shape {tuple(value.shape)} where {tuple(place.shape)} was "
            "captured: call it before or after the captured block."
        )
    for dimension, stride in enumerate(place.stride()):
        if stride == 0 and place.shape[dimension] > 1:
            # All elements along it are one in memory, and so they are in the result.
            place = place.narrow(dimension, 0, 1)
            value = value.narrow(dimension, 0, 1)
    place.copy_(value)

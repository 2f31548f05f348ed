"""Graphs: captured work that is replayed, by recording the operators of a block.

`_capture.py` and `_recorded.py` do the work; here are CUDA's names and CUDA's errors.
`make_graphed_callables` is torch's own, on top of these.
"""

from __future__ import annotations

import gc
import itertools
import pathlib
import warnings
from typing import TYPE_CHECKING, Any

import torch

from .._capture import ILLEGAL_STATE, Capture, capture_error, forbid
from . import _memory, _random, _streams
from ._device import synchronize_target
from ._surface import StandIn, emulated, plain, redirection, refusal, target

if TYPE_CHECKING:
    from .._recorded import Tape

__all__ = ["CUDAGraph", "Replayable"]

_PlainCUDAGraph = plain("CUDAGraph")
_PlainGraph = plain("graph")
_plain_make_graphed_callables = plain("make_graphed_callables")

_MODES = ("global", "thread_local", "relaxed")
_pools = itertools.count(1)
_handles = itertools.count(1)
_debugging = False


@emulated("graph_pool_handle", "a new number pair, as CUDA gives")
def graph_pool_handle() -> tuple[int, int]:
    return (0, next(_handles))


class Replayable:
    """What a graph of either surface, torch.cuda's or torch.accelerator's, can do."""

    _keep_graph: bool
    _capture: Capture | None
    _tape: Tape | None
    _ready: bool
    _stream_id: int
    _pool: tuple[int, int]

    def _set_up(self, keep_graph: bool) -> None:
        self._keep_graph = bool(keep_graph)
        self._capture = None
        self._tape = None
        self._ready = False
        self._stream_id = _streams.current_stream_id()
        self._pool = (0, 0)

    def _begin(self, pool: Any, mode: str) -> None:
        if mode not in _MODES:
            raise RuntimeError(
                "Unknown capture error mode. Expected `global`, `thread_local`, or `relaxed`, "
                f"got {mode}"
            )
        if self._ready:
            raise RuntimeError(
                "This CUDAGraph instance already owns a captured graph. "
                "To capture a new graph, create a new instance."
            )
        stream = _streams.current_stream_id()
        if stream == _streams.DEFAULT_ID:
            raise RuntimeError(
                "CUDA graphs must be captured on a non-default stream. (However, after capture, "
                "it's ok to replay them on the default stream.)"
            )
        self._stream_id = stream
        self._pool = (next(_pools), 0) if pool is None or tuple(pool) == (0, 0) else tuple(pool)
        capture = Capture(target(), _random.generator(), stream, _streams.current_stream_id, mode)
        capture.begin()
        self._capture = capture

    def _end(self) -> None:
        if _streams.current_stream_id() != self._stream_id:
            raise RuntimeError("Capture must end on the same stream it began on.")
        if self._capture is None:
            raise capture_error(ILLEGAL_STATE)
        capture, self._capture = self._capture, None
        tape = capture.end()
        if not tape.steps:
            warnings.warn(
                "The CUDA Graph is empty. This usually means that the graph was attempted to be "
                "captured on wrong device or stream.",
                stacklevel=4,
            )
        self._tape = tape
        self._ready = not self._keep_graph

    def instantiate(self) -> None:
        """Make a captured graph ready to replay.

        Raises:
            RuntimeError: If nothing was captured, or the graph is ready and was not kept.
        """
        if self._tape is None:
            raise RuntimeError("capture_end() must have been called before calling instantiate")
        if self._ready and not self._keep_graph:
            raise RuntimeError(
                "instantiate() is intended to be called by the user only when keep_graph=true"
            )
        self._ready = True

    def replay(self) -> None:
        """Run the captured work again, on the tensors that it had.

        Raises:
            RuntimeError: If nothing was captured.
        """
        if self._tape is None:
            raise RuntimeError("Called CUDAGraph::replay without a preceding successful capture.")
        forbid("CUDAGraph.replay", _streams.current_stream_id())
        self._ready = True
        self._tape.replay()

    def reset(self) -> None:
        """Forget the captured work, and free its memory."""
        if self._capture is not None:
            capture, self._capture = self._capture, None
            capture.abandon()
        self._tape = None
        self._ready = False

    def pool(self) -> Any:
        """The pool of the graph's memory, for other graphs to share.

        Raises:
            RuntimeError: If nothing was captured.
        """
        if self._tape is None:
            raise RuntimeError("Called CUDAGraph::pool() without a preceding successful capture.")
        return self._pool

    def enable_debug_mode(self) -> None:
        """Keep graphs that are captured from here on for `debug_dump`."""
        global _debugging
        _debugging = True

    def _dump(self, path: str) -> None:
        if not (_debugging or self._keep_graph):
            warnings.warn(
                "CUDA Graphs debug not enabled, set with [graph].enable_debug_mode()", stacklevel=3
            )
            return
        warnings.warn("DEBUG: calling debug_dump()", stacklevel=3)
        if self._tape is not None:
            warnings.warn(f"DEBUG: calling cudaGraphDebugDotPrint() with {path}", stacklevel=3)
            pathlib.Path(path).write_text(self._tape.dot(), encoding="utf-8")


@emulated("CUDAGraph", "records operators and replays them on the same memory")
class CUDAGraph(Replayable, metaclass=StandIn):
    """`torch.cuda.CUDAGraph` that records operators."""

    _original = _PlainCUDAGraph
    _check_liveness: bool

    def __new__(cls, keep_graph: bool = False) -> Any:
        if redirection() is None:
            return _PlainCUDAGraph(keep_graph)
        self = object.__new__(cls)
        self._set_up(keep_graph)
        self._check_liveness = False
        return self

    def __init__(self, keep_graph: bool = False) -> None:
        pass

    def capture_begin(
        self,
        pool: Any = None,
        capture_error_mode: str = "global",
        check_input_liveness: bool = False,
    ) -> None:
        """Record the work of the current stream.

        Args:
            pool: The pool of another graph: noted, since graphs here never overwrite each other.
            capture_error_mode: Which threads may not wait for the device meanwhile.
            check_input_liveness: Whether `replay` fails where a tensor that the graph reads was
                freed. Here the graph keeps it, on CUDA it does not.

        Raises:
            RuntimeError: If the graph was captured before, or the stream is the default one.
        """
        self._check_liveness = check_input_liveness
        self._begin(pool, capture_error_mode)

    def capture_end(self) -> None:
        """Stop recording.

        Raises:
            RuntimeError: If the capture did not begin, or something in it cannot be replayed.
        """
        self._end()

    def replay(self) -> None:
        """Run the captured work again, on the tensors that it had."""
        if self._check_liveness and self._tape is not None and (dead := self._tape.dead_inputs()):
            raise RuntimeError(
                f"CUDA graph replay detected {dead} dead tensor(s).\n"
                "Keep the tensors that the captured block reads until the last replay."
            )
        super().replay()

    def debug_dump(self, debug_path: str) -> None:
        """Write the captured operators as a graph in the DOT language.

        Args:
            debug_path: The file to write.
        """
        self._dump(debug_path)

    def register_generator_state(self, generator: torch.Generator) -> None:
        """Nothing to do: a replay draws from whatever state a generator has."""

    def raw_cuda_graph(self) -> int:
        """Not to be had: there is no `cudaGraph_t`."""
        if not self._keep_graph:
            raise RuntimeError(
                "You cannot access the raw cudaGraph_t instance unless CUDAGraph was initialized "
                "with keep_graph=true"
            )
        if self._tape is None:
            raise RuntimeError(
                "You cannot access the raw cudaGraph_t instance until capture_end() has been called"
            )
        handle: int = _no_handle("CUDAGraph.raw_cuda_graph")
        return handle

    def raw_cuda_graph_exec(self) -> int:
        """Not to be had: there is no `cudaGraphExec_t`."""
        if not self._ready:
            raise RuntimeError(
                "You cannot access the raw cudaGraphExec_t instance until instantiate() has been "
                "called"
            )
        handle: int = _no_handle("CUDAGraph.raw_cuda_graph_exec")
        return handle

    def get_graph_data(self) -> dict[str, Any]:
        """Not to be had: there are no CUDA nodes to describe."""
        data: dict[str, Any] = _no_handle("CUDAGraph.get_graph_data")
        return data


def _no_handle(name: str) -> Any:
    return refusal(
        name,
        "the graph consists of torch's operators and not of CUDA's nodes",
        "use debug_dump to see what was captured",
    )()


@emulated("graph", "records the operators of the block")
class graph(metaclass=StandIn):  # noqa: N801 - torch's name
    """Context manager that captures a block into a graph."""

    _original = _PlainGraph
    default_capture_stream: Any = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if redirection() is None:
            return _PlainGraph(*args, **kwargs)
        return object.__new__(cls)

    def __init__(  # noqa: PLR0917 - torch's signature
        self,
        cuda_graph: CUDAGraph,
        pool: Any = None,
        stream: Any = None,
        capture_error_mode: str = "global",
        enable_annotations: bool = False,
        check_input_liveness: bool = False,
    ) -> None:
        if stream is None:
            kept = type(self).default_capture_stream
            # Another redirection may have another target.
            if kept is None or kept.device != target():
                type(self).default_capture_stream = _streams.Stream()
            stream = type(self).default_capture_stream
        self.pool: tuple[Any, ...] = () if pool is None else (pool,)
        self.capture_stream = stream
        self.stream_ctx = _streams.StreamContext(stream)
        self.cuda_graph = cuda_graph
        self.capture_error_mode = capture_error_mode
        self.check_input_liveness = check_input_liveness

    def __enter__(self) -> None:
        forbid("torch.cuda.graph")
        synchronize_target(target())
        if torch.compiler.config.force_cudagraph_gc:
            gc.collect()
        _memory.empty_cache()
        self.stream_ctx.__enter__()
        try:
            self.cuda_graph.capture_begin(
                self.pool[0] if self.pool else None,
                capture_error_mode=self.capture_error_mode,
                check_input_liveness=self.check_input_liveness,
            )
        except BaseException:
            self.stream_ctx.__exit__(None, None, None)
            raise

    def __exit__(self, *exception: object) -> None:
        try:
            self.cuda_graph.capture_end()
        finally:
            self.stream_ctx.__exit__(*exception)


for _class in (CUDAGraph, graph):
    _class.__module__ = "torch.cuda.graphs"


@emulated("make_graphed_callables", "torch's own, on graphs that record operators")
def make_graphed_callables(
    callables: Any,
    sample_args: Any,
    num_warmup_iters: int = 3,
    allow_unused_input: bool = False,
    pool: Any = None,
) -> Any:
    return _plain_make_graphed_callables(
        callables,
        sample_args,
        num_warmup_iters,
        allow_unused_input,
        graph_pool_handle() if pool is None else pool,
    )

"""Work in progress: what programs ask of NCCL's, and gloo's has not in every case.

Torch's object for it lives in C++, and outlives what Python adds to it. So what is added goes into
a future where DDP's reducer and compiled graphs may hold the work.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["Receiving", "with_future"]

_create_work: Any = vars(torch._C._distributed_c10d)["_create_work_from_future"]


def with_future(work: Any, finish: Callable[[], list[torch.Tensor]]) -> Any:
    """Work that does something more before it is done.

    Args:
        work: Gloo's.
        finish: What is done at the end, in whatever thread; gives the result.

    Returns:
        The work, with a future.
    """

    def then(done: Any) -> list[torch.Tensor]:
        done.value()  # raises what the collective raised
        return finish()

    try:
        future = work.get_future()
    except RuntimeError:  # some of gloo's work has none
        future = _when_waited_for(work)
    return _create_work(future.then(then))


def _when_waited_for(work: Any) -> Any:
    """A future of work that has none: a thread waits for it."""
    future: Any = torch.futures.Future()

    def wait() -> None:
        try:
            work.wait()
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=wait, name="torchdevice-collective", daemon=True).start()
    return future


# Programs may wait for a message through torch's object alone: what Python adds is kept for them.
_receiving: set[Receiving] = set()


class Receiving(dist.Work):
    """A message that is on its way.

    Gloo cannot tell whether one has arrived, so asking waits for it.

    Args:
        work: Gloo's.
        finish: What is done when it has arrived.
    """

    def __init__(self, work: Any, finish: Callable[[], object] | None = None) -> None:
        super().__init__()
        self._work = work
        self._finish = finish
        self._arrived = False
        self._lock = threading.Lock()
        self._future: Any = None
        _receiving.add(self)

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Wait for the message."""
        with self._lock:
            if self._arrived:
                return True
            try:
                self._work.wait(timeout) if timeout else self._work.wait()
                if self._finish is not None:
                    self._finish()
                self._arrived = True
            finally:
                _receiving.discard(self)
        return True

    def is_completed(self) -> bool:
        """Whether it has arrived: waits until it has."""
        return self.wait()

    def is_success(self) -> bool:
        """Whether it arrived."""
        return self._arrived

    def synchronize(self) -> None:
        """Wait for the message."""
        self.wait()

    def get_future(self) -> Any:
        """A future of the message."""
        if self._future is None:
            self._future = _when_waited_for(self)
        return self._future

    def source_rank(self) -> int:
        """Who sent it."""
        return int(self._work.source_rank())

    def _source_rank(self) -> int:
        return int(self._work._source_rank())

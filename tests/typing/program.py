"""A program as type checkers see it: `nox -s build` has mypy and pyright check it.

It is not run, and it is no test of pytest's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import torch
from typing_extensions import assert_type

import torchdevice
import torchdevice_mode

# --- what is decorated keeps its type ---------------------------------------------------------


@torchdevice.redirect
def bare(x: int) -> str:
    return str(x)


@torchdevice.redirect()
def called(x: int, *, y: float = 0.0) -> list[float]:
    return [x, y]


@torchdevice.redirect("mps", policy="explicit", float64="cpu", verify=0.01, rng="cpu")
class Trainer:
    steps = 3

    @torchdevice.native()
    def train(self) -> torch.Tensor:
        return torch.zeros(self.steps)


@torchdevice.redirect()
async def coroutine() -> int:
    return 1


@torchdevice.redirect()
def generator() -> Iterator[int]:
    yield 1


@torchdevice.redirect()
async def asynchronous_generator() -> AsyncIterator[int]:
    yield 1


assert_type(bare(1), str)
assert_type(called(1, y=2.0), list[float])
assert_type(Trainer().train(), torch.Tensor)
assert_type(generator(), Iterator[int])


async def main() -> None:
    assert_type(await coroutine(), int)
    async for number in asynchronous_generator():
        assert_type(number, int)


# --- blocks and questions ----------------------------------------------------------------------


def use() -> None:
    redirection: torchdevice.Redirect = torchdevice.redirect(verify="mm")
    with redirection as entered, torchdevice.cpu_override():
        assert_type(entered, torchdevice.Redirect)
    with torchdevice.native():
        pass
    torchdevice.enable("mps", dispatch="always", allow_untested=True)
    torchdevice.disable()

    assert_type(torchdevice.is_active(), bool)
    assert_type(torchdevice.target(), str | None)
    assert_type(torchdevice.__version__, str)

    decision = torchdevice.explain("cuda:1", target="cpu")
    assert_type(decision.reason, str)
    assert_type(decision.redirected, bool)
    torchdevice.explain(torch.device("cuda"))

    for entry in torchdevice.ledger().entries():
        assert_type(entry.count, int)
        assert_type(entry.site.file, str)
        assert_type(entry.site.line, int)

    try:
        torchdevice.simulate.load("mps")
        with torchdevice.simulate.counting() as counts:
            assert_type(counts.synchronizations, int)
    except torchdevice.SimulatorError as error:
        print(error)
    try:
        torch.zeros(1)
    except (torchdevice.SettingsError, torchdevice.UnsupportedByTargetError) as problem:
        assert_type(problem, torchdevice.SettingsError | torchdevice.UnsupportedByTargetError)


# --- the two names are one package --------------------------------------------------------------

assert_type(torchdevice_mode.explain(0).redirected, bool)
same: type[torchdevice_mode.Redirect] = torchdevice.Redirect


# --- what must be told to be wrong: an ignored error that does not occur is an error itself -----

torchdevice.redirect(policy=1)  # type: ignore[call-overload]  # pyright: ignore
torchdevice.enable(polcy="force")  # type: ignore[call-arg]  # pyright: ignore
torchdevice.nothing  # type: ignore[attr-defined]  # pyright: ignore
bare("x")  # type: ignore[arg-type]  # pyright: ignore

"""Whole training programs in `torch.compile`: the graphs, breaks and losses of plain torch."""

from __future__ import annotations

import logging
from collections import Counter
from typing import NamedTuple

import pytest
import torch
import torch._dynamo
from torch._dynamo.utils import counters

from torchdevice_mode import redirect

from . import models

pytestmark = pytest.mark.filterwarnings("ignore")


class Compiled(NamedTuple):
    """What a program gave, and what Dynamo made of it; a recompilation makes another graph."""

    losses: list[float]
    graphs: int
    breaks: int
    operations: Counter[str]


def compiled(program, device: str, backend: str) -> Compiled:
    torch._dynamo.reset()
    counters.clear()
    operations: Counter[str] = Counter()

    def count(graph, inputs):
        names = (node.target for node in graph.graph.nodes if node.op.startswith("call"))
        operations.update(getattr(name, "__name__", str(name)) for name in names)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    torch.manual_seed(0)
    losses = torch.compile(lambda: list(program(device)), backend=count)()
    counted = Compiled(
        losses,
        counters["stats"]["unique_graphs"],
        sum(counters["graph_break"].values()),
        operations,
    )
    torch._dynamo.reset()
    return counted


@pytest.fixture(autouse=True)
def short_and_quiet(monkeypatch):
    """Two steps, as all is compiled by then; Dynamo says much about breaks that plain torch has."""
    monkeypatch.setattr(models, "STEPS", 2)
    # Its loop over parameters is traced for half a minute, and the same code as for NAdam.
    monkeypatch.setattr(torch.optim.AdamW, "step", torch.compiler.disable(torch.optim.AdamW.step))
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", models.PROGRAMS)
def test_no_graph_break_compilation_or_operation_more_than_plain_torch(name):
    plain = compiled(models.PROGRAMS[name], "cpu", "eager")
    with redirect(rng="cpu"):
        redirected = compiled(models.PROGRAMS[name], "cuda", "eager")
    assert redirected._replace(losses=[]) == plain._replace(losses=[])
    assert redirected.losses == pytest.approx(plain.losses, rel=1e-4)


@pytest.mark.parametrize("name", ["gnn", "contrastive"])
def test_backward_passes_are_compiled_ahead(name):
    plain = compiled(models.PROGRAMS[name], "cpu", "eager")
    with redirect(rng="cpu"):
        ahead = compiled(models.PROGRAMS[name], "cuda", "aot_eager")
    assert ahead.losses == pytest.approx(plain.losses, rel=1e-4)
    assert (ahead.graphs, ahead.breaks) == (plain.graphs, plain.breaks)

"""A training step of a small transformer: the CUDA program redirected, and the same program
written for the target."""

from __future__ import annotations

import multiprocessing
import statistics
import sys
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

import torchdevice
from torchdevice_mode import simulate

from ._measure import Variant, interleaved, ratio, table

BATCH, LENGTH, WIDTH, VOCABULARY = 16, 64, 128, 256


class Trainer:
    """A two-layer transformer with its optimizer, on a device that it names itself.

    Args:
        device: The device that the program names.
        under: Gives the context that it was written to run in.
    """

    def __init__(self, device: str, under: AbstractContextManager[object]) -> None:
        torch.manual_seed(0)
        self.device = device
        with under:
            layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True)
            self.model = nn.Sequential(
                nn.Embedding(VOCABULARY, WIDTH),
                nn.TransformerEncoder(layer, 2),
                nn.Linear(WIDTH, VOCABULARY),
            ).to(device)
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.tokens = torch.randint(VOCABULARY, (BATCH, LENGTH + 1))
        self.losses: list[float] = []

    def step(self) -> None:
        """What a training loop does with one batch, the loss read as a progress bar reads it."""
        tokens = self.tokens.to(self.device, non_blocking=True)
        mask = nn.Transformer.generate_square_subsequent_mask(LENGTH, device=self.device)
        embedded = self.model[0](tokens[:, :-1])
        logits = self.model[2](self.model[1](embedded, mask=mask, is_causal=True))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.losses.append(loss.item())


def timed(simulated: bool, rounds: int) -> dict[str, object]:
    """Time the two programs in turns, in this process.

    Args:
        simulated: Whether to load the simulated device first.
        rounds: How often each takes its turn of five steps.

    Raises:
        AssertionError: If the two programs did not compute the same.
    """
    if simulated:
        simulate.load()
    torch.set_num_threads(1)
    device = str(torchdevice.explain("cuda").device or "cuda:0")
    native = Trainer(device, nullcontext())
    redirected = Trainer("cuda", torchdevice.redirect())
    # Random numbers are drawn on the device that holds the parameter when it is made.
    redirected.model.load_state_dict(native.model.state_dict())
    redirected.tokens = native.tokens.clone()
    seconds = interleaved(
        {
            "native": Variant(nullcontext, native.step),
            "redirected": Variant(torchdevice.redirect, redirected.step),
        },
        rounds=rounds,
        calls=5,
    )
    torch.testing.assert_close(redirected.losses, native.losses, rtol=1e-5, atol=0)
    return {
        "device": f"simulated {device}" if simulated else device,
        "native_ms": statistics.median(seconds["native"]) * 1e3,
        "ratio": ratio(seconds, "redirected", "native"),
    }


def measure(*, quick: bool = False) -> tuple[list[dict[str, object]], str]:
    """Run the benchmark on this machine's target, and on Linux on the simulated device.

    Args:
        quick: A tenth of the rounds, to see that it works.

    Returns:
        A record per device, and the table.
    """
    rounds = 3 if quick else 30
    records = [timed(simulate.is_loaded(), rounds)]
    if sys.platform == "linux" and not simulate.is_loaded():
        # In a process of its own: the simulated device cannot be unloaded.
        with multiprocessing.get_context("spawn").Pool(1) as process:
            records.append(process.apply(timed, (True, rounds)))
    rows = [[f"on {r['device']}", f"{r['native_ms']:.1f} ms", f"{r['ratio']:.3f}"] for r in records]
    headings = ["Training step, small transformer", "written for it", "redirected: of that"]
    return records, table(headings, rows)

"""A small transformer and its training loop: what a step costs, from tiny to large."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn

VOCABULARY = 256


@dataclass(frozen=True)
class Size:
    """How large the model and a batch are."""

    width: int = 128
    layers: int = 2
    batch: int = 16
    length: int = 64


# Each program gets functions of its own: Dynamo keeps compiled code by code object.
_SOURCE = """
def loss(model, tokens, mask):
    embedded = model[0](tokens[:, :-1])
    logits = model[2](model[1](embedded, mask=mask, is_causal=True))
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
"""


class Trainer:
    """A transformer with its optimizer, on a device that it names itself.

    Args:
        device: The device that the program names.
        under: Gives the context that it was written to run in.
        size: How large it is.
        compiled: Whether forward and backward pass are compiled.
    """

    def __init__(
        self,
        device: str,
        under: AbstractContextManager[object],
        size: Size,
        *,
        compiled: bool = False,
    ) -> None:
        torch.manual_seed(0)
        self.device, self.size = device, size
        with under:
            layer = nn.TransformerEncoderLayer(
                size.width, 4, 4 * size.width, dropout=0.0, batch_first=True
            )
            self.model = nn.Sequential(
                nn.Embedding(VOCABULARY, size.width),
                nn.TransformerEncoder(layer, size.layers, enable_nested_tensor=False),
                nn.Linear(size.width, VOCABULARY),
            ).to(device)
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        names = {"torch": torch}
        exec(_SOURCE, names)
        self.loss = torch.compile(names["loss"]) if compiled else names["loss"]
        self.tokens = torch.randint(VOCABULARY, (size.batch, size.length + 1))
        self.losses: list[float] = []

    def start_like(self, other: Trainer) -> Trainer:
        """Take another's weights and data: random numbers are drawn on the device."""
        self.model.load_state_dict(other.model.state_dict())
        self.tokens = other.tokens.clone()
        return self

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def step(self) -> None:
        """What a training loop does with one batch, the loss read as a progress bar reads it."""
        tokens = self.tokens.to(self.device, non_blocking=True)
        mask = nn.Transformer.generate_square_subsequent_mask(self.size.length, device=self.device)
        loss = self.loss(self.model, tokens, mask)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.losses.append(loss.item())

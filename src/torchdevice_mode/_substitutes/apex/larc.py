"""`apex.parallel.LARC`: learning rates of single layers (You, Gitman and Ginsburg 2017)."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

__all__ = ["LARC"]


class LARC:
    """Scales each parameter's gradient to the parameter, before an optimizer's step.

    Args:
        optimizer: The optimizer; its decay is taken over.
        trust_coefficient: Length of a step, as a share of the parameter's.
        clip: Take the lower of this learning rate and the optimizer's; otherwise their product.
        eps: Added to the divisor.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        trust_coefficient: float = 0.02,
        clip: bool = True,
        eps: float = 1e-8,
    ) -> None:
        self.optim = optimizer
        self.trust_coefficient = trust_coefficient
        self.clip = clip
        self.eps = eps

    def __getattr__(self, name: str) -> Any:
        """All else is the optimizer's."""
        if name == "optim":
            raise AttributeError(name)  # while it is copied or unpickled
        return getattr(self.optim, name)

    def __repr__(self) -> str:
        return repr(self.optim)

    @torch.no_grad()
    def step(self) -> None:
        """Scale gradients in place, and let the optimizer do its step without a decay."""
        decays = [group.get("weight_decay", 0) for group in self.optim.param_groups]
        for group, decay in zip(self.optim.param_groups, decays, strict=True):
            if "weight_decay" in group:
                group["weight_decay"] = 0
            for p in group["params"]:
                if p.grad is None:
                    continue
                own, slope = torch.linalg.vector_norm(p), torch.linalg.vector_norm(p.grad)
                rate = self.trust_coefficient * own / (slope + own * decay + self.eps)
                if self.clip:
                    rate = (rate / group["lr"]).clamp(max=1.0)
                scaled = p.grad.add(p, alpha=decay).mul_(rate)
                p.grad.copy_(torch.where((own != 0) & (slope != 0), scaled, p.grad))
        with torch.enable_grad():
            self.optim.step()
        for group, decay in zip(self.optim.param_groups, decays, strict=True):
            if "weight_decay" in group:
                group["weight_decay"] = decay

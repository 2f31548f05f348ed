"""Optimizers that compute in float32 and keep their state in it, whatever type parameters have.

The steps are those of the papers: Kingma and Ba 2015 (Adam), Loshchilov and Hutter 2019 (AdamW),
You et al. 2020 (LAMB), Chen et al. 2023 (Lion), Duchi et al. 2011 (Adagrad).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["Float32Optimizer", "adam_direction", "decay_into_gradient"]


class Float32Optimizer(Optimizer):
    """Calls `update` for each parameter with a gradient, both in float32.

    Each group counts its steps under `"step"`.
    """

    def update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Change a parameter in place.

        Args:
            p: The parameter in float32.
            grad: A copy of its gradient in float32, which may be changed.
            state: What is kept of the parameter; empty at its first step.
            group: The parameter's group.
        """
        raise NotImplementedError

    def before(self, grads: list[Tensor]) -> None:
        """Look at all gradients of a step before the first update."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient.

        Args:
            closure: Computes the loss anew.

        Returns:
            The loss, where there is a closure.

        Raises:
            RuntimeError: For a sparse gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        pairs = [(p, group) for group in self.param_groups for p in group["params"]]
        with_gradient = [(p, group) for p, group in pairs if p.grad is not None]
        if any(p.grad.is_sparse for p, _ in with_gradient):
            raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
        self.before([p.grad for p, _ in with_gradient])
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
        for p, group in with_gradient:
            wide = p.detach().float()
            self.update(wide, p.grad.to(torch.float32, copy=True), self.state[p], group)
            if wide.dtype != p.dtype:
                p.copy_(wide)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with a saved state, which torch would cast to the parameters' types.

        Args:
            state_dict: What the method of that name gave.
        """
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for number, p in zip(numbers, params, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor) and value.is_floating_point():
                    self.state[p][name] = value.detach().to(p.device, torch.float32, copy=True)


def decay_into_gradient(p: Tensor, grad: Tensor, weight_decay: float) -> None:
    """Add the decay to the gradient in place, as before AdamW."""
    if weight_decay:
        grad.add_(p, alpha=weight_decay)


def adam_direction(
    grad: Tensor,
    state: dict[str, Any],
    group: dict[str, Any],
    *,
    share: float | None = None,
) -> Tensor:
    """The direction of Adam's step, by moments that are corrected for their beginning at 0.

    Args:
        grad: The gradient.
        state: Holds the moments, `"exp_avg"` and `"exp_avg_sq"`.
        group: Gives `"betas"`, `"eps"`, `"step"` and, where it has one, `"bias_correction"`.
        share: What the gradient is multiplied by in the first moment; by default 1 - beta1.

    Returns:
        The first moment over the root of the second.
    """
    beta1, beta2 = group["betas"]
    if not state:
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(grad), torch.zeros_like(grad)
    first, second = state["exp_avg"], state["exp_avg_sq"]
    first.mul_(beta1).add_(grad, alpha=1 - beta1 if share is None else share)
    second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    correct1 = correct2 = 1.0
    if group.get("bias_correction", True):
        correct1, correct2 = 1 - beta1 ** group["step"], 1 - beta2 ** group["step"]
    scale = (second.sqrt() / math.sqrt(correct2)).add_(group["eps"])
    return first.div(scale).div_(correct1)

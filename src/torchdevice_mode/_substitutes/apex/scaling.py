"""Loss scaling of `apex.amp`, and optimizers that keep parameters in float32."""

from __future__ import annotations

import functools
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["Amp", "LossScaler", "amp_of", "prepare_optimizer"]


class LossScaler:
    """What a loss is multiplied by, so that small gradients are not lost in float16.

    Args:
        loss_scale: A number, or `"dynamic"`: it begins at 2 ** 16, is halved where a gradient
            overflows, and doubled after 2000 steps without.
        min_loss_scale: The least; None for none.
        max_loss_scale: The most.
    """

    window = 2000

    def __init__(
        self,
        loss_scale: float | str,
        min_loss_scale: float | None = None,
        max_loss_scale: float = 2.0**24,
    ) -> None:
        self.dynamic = loss_scale == "dynamic"
        self.scale = min(max_loss_scale, 2.0**16) if self.dynamic else float(loss_scale)
        self.unskipped = 0
        self.min_loss_scale = min_loss_scale
        self.max_loss_scale = max_loss_scale

    def loss_scale(self) -> float:
        """The present number."""
        return self.scale

    def update(self, overflow: bool) -> bool:
        """Learn from a backward pass.

        Args:
            overflow: Whether a gradient was infinite or no number.

        Returns:
            Whether the step is to be skipped.
        """
        if not self.dynamic:
            return False
        if overflow:
            self.scale = max(self.scale / 2.0, self.min_loss_scale or 0.0)
            self.unskipped = 0
            return True
        self.unskipped += 1
        if self.unskipped == self.window:
            self.scale = min(self.max_loss_scale, self.scale * 2.0)
            self.unskipped = 0
        return False


class Amp:
    """What `amp.initialize` added to an optimizer.

    Attributes:
        masters: Each parameter that was cast, by the copy in float32 that is optimized.
        skip: Whether the next step is left out.
        scaled: Whether gradients were left scaled, by `delay_unscale`.
    """

    def __init__(self) -> None:
        self.masters: dict[Tensor, Tensor] = {}
        self.skip = False
        self.scaled = False
        self._stash: dict[Tensor, Tensor] = {}

    def before_backward(self, optimizer: Optimizer) -> None:
        """Put gradients of earlier passes aside, so that those of this one can be unscaled."""
        if self.scaled:
            return
        for owner, target in self._pairs(optimizer):
            if target.grad is not None:
                self._stash[target] = target.grad
                target.grad = None
            owner.grad = None

    def after_backward(self, optimizer: Optimizer, scale: float) -> list[Tensor]:
        """Unscale gradients, and add those that were put aside; return what was unscaled."""
        self.scaled = False
        fresh = []
        for owner, target in self._pairs(optimizer):
            grad, owner.grad = owner.grad, None
            if grad is not None:
                grad = grad.to(target.dtype) * (1.0 / scale)
                fresh.append(grad)
            before = self._stash.pop(target, None)
            if before is not None:
                grad = before if grad is None else grad + before
            target.grad = grad
        return fresh

    def _pairs(self, optimizer: Optimizer) -> list[tuple[Tensor, Tensor]]:
        """The parameter that `backward` writes to, and the one that is optimized."""
        params = [p for group in optimizer.param_groups for p in group["params"]]
        return [(self.masters.get(p, p), p) for p in params]


def amp_of(optimizer: Optimizer) -> Amp:
    """What `amp.initialize` added to an optimizer.

    Raises:
        RuntimeError: If it did not.
    """
    found = vars(optimizer).get("_amp_stash")
    if found is None:
        raise RuntimeError(
            "Invoked 'with amp.scale_loss', but the optimizer was not given to amp.initialize."
        )
    assert isinstance(found, Amp)
    return found


def prepare_optimizer(optimizer: Optimizer, *, master_weights: bool) -> None:
    """Have an optimizer skip steps, and optimize copies in float32 where it is to.

    Args:
        optimizer: Changed in place.
        master_weights: Whether it is to.

    Raises:
        RuntimeError: If it was prepared before.
    """
    if "_amp_stash" in vars(optimizer):
        raise RuntimeError("A given optimizer should only be passed through amp.initialize once.")
    stash = Amp()
    vars(optimizer)["_amp_stash"] = stash
    if master_weights:
        _optimize_copies(optimizer, stash)
    step, zero_grad = optimizer.step, optimizer.zero_grad

    @functools.wraps(step)
    def step_or_skip(self: Optimizer, closure: Any = None, *args: Any, **kwargs: Any) -> Any:
        if closure is not None:
            raise RuntimeError("Currently, Amp does not support closure use with optimizers.")
        if stash.skip:
            stash.skip = False
            return None
        result = step(*args, **kwargs)
        with torch.no_grad():
            for master, param in stash.masters.items():
                param.copy_(master)
        return result

    @functools.wraps(zero_grad)
    def zero_all(self: Optimizer, *args: Any, **kwargs: Any) -> None:
        zero_grad(*args, **kwargs)
        for param in stash.masters.values():
            param.grad = None

    # Methods, because schedulers of learning rates bind what they find.
    vars(optimizer)["step"] = MethodType(step_or_skip, optimizer)
    vars(optimizer)["zero_grad"] = MethodType(zero_all, optimizer)


def _optimize_copies(optimizer: Optimizer, stash: Amp) -> None:
    for group in optimizer.param_groups:
        for index, param in enumerate(group["params"]):
            if not param.requires_grad or param.dtype == torch.float32:
                continue
            master = param.detach().float().requires_grad_()
            stash.masters[master] = param
            group["params"][index] = master
            if param in optimizer.state:
                optimizer.state[master] = optimizer.state.pop(param)

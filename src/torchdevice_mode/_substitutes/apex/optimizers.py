"""`apex.optimizers`: Adam, LAMB and SGD under the names of Apex."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._missing import unsupported
from .._optimizers import Float32Optimizer, adam_direction, decay_into_gradient

__all__ = ["FusedAdam", "FusedLAMB", "FusedSGD"]


class _Fused(Float32Optimizer):
    set_grad_none = True

    def zero_grad(self, set_to_none: bool | None = None) -> None:
        """Drop gradients, or fill them with 0 where the optimizer was told so."""
        super().zero_grad(self.set_grad_none if set_to_none is None else set_to_none)


class FusedAdam(_Fused):
    """Adam, by default with the decay of AdamW.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate.
        bias_correction: Correct the moments for their beginning at 0.
        betas: Decay of the moments.
        eps: Added to the root of the second moment.
        adam_w_mode: Decay parameters (AdamW); otherwise add the decay to the gradient.
        weight_decay: The decay.
        amsgrad: Raises unless False, as in Apex.
        set_grad_none: `zero_grad` drops gradients.
        capturable: No effect: steps need no synchronisation.
        master_weights: Raises unless False.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        bias_correction: bool = True,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        adam_w_mode: bool = True,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        set_grad_none: bool = True,
        capturable: bool = False,
        master_weights: bool = False,
    ) -> None:
        if amsgrad:
            raise RuntimeError("FusedAdam does not support the AMSGrad variant.")
        if master_weights:
            raise unsupported(
                "apex.optimizers.FusedAdam(master_weights=True)", 'use amp.initialize with "O2"'
            )
        defaults = {
            "lr": lr,
            "bias_correction": bool(bias_correction),
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)
        self.adam_w_mode = 1 if adam_w_mode else 0
        self.set_grad_none = set_grad_none

    def step(  # type: ignore[override]
        self,
        closure: Callable[[], float] | None = None,
        grads: Any = None,
        output_params: Any = None,
        scale: Any = None,
        grad_norms: Any = None,
        grad_scaler: Any = None,
    ) -> float | None:
        """Update all parameters that have a gradient.

        Args:
            closure: Computes the loss anew.
            grads: Raises unless None, as in Apex, like the others.
            output_params: Likewise.
            scale: Likewise.
            grad_norms: Likewise.
            grad_scaler: Likewise.

        Returns:
            The loss, where there is a closure.
        """
        if any(given is not None for given in (grads, output_params, scale, grad_norms)):
            raise RuntimeError("FusedAdam has been updated: step() takes a closure alone")
        if grad_scaler is not None:
            raise unsupported("apex.optimizers.FusedAdam.step(grad_scaler=...)", "call its step")
        loss: float | None = super().step(closure)
        return loss

    def update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """One step of Adam."""
        if self.adam_w_mode:
            p.mul_(1 - group["lr"] * group["weight_decay"])
        else:
            decay_into_gradient(p, grad, group["weight_decay"])
        p.sub_(adam_direction(grad, state, group), alpha=group["lr"])


class FusedLAMB(_Fused):
    """LAMB: Adam's direction, as long as each parameter is.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate.
        bias_correction: Correct the moments for their beginning at 0.
        betas: Decay of the moments.
        eps: Added to the root of the second moment.
        weight_decay: The decay; without it, steps are not scaled to their parameters.
        amsgrad: Raises unless False, as in Apex.
        adam_w_mode: Add the decay to the direction; otherwise to the gradient.
        grad_averaging: The first moment takes 1 - beta1 of the gradient; otherwise all of it.
        set_grad_none: `zero_grad` drops gradients.
        max_grad_norm: Gradients are scaled so that their norm is at most this.
        use_nvlamb: Scale steps of parameters without decay, too.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        bias_correction: bool = True,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
        adam_w_mode: bool = True,
        grad_averaging: bool = True,
        set_grad_none: bool = True,
        max_grad_norm: float = 1.0,
        use_nvlamb: bool = False,
    ) -> None:
        if amsgrad:
            raise RuntimeError("FusedLAMB does not support the AMSGrad variant.")
        defaults = {
            "lr": lr,
            "bias_correction": bool(bias_correction),
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "grad_averaging": grad_averaging,
            "max_grad_norm": max_grad_norm,
        }
        super().__init__(params, defaults)
        self.adam_w_mode = 1 if adam_w_mode else 0
        self.set_grad_none = set_grad_none
        self.use_nvlamb = use_nvlamb
        self._norm: Tensor | None = None

    def before(self, grads: list[Tensor]) -> None:
        """The norm of all gradients."""
        norms = [torch.linalg.vector_norm(g.float()) for g in grads]
        self._norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else None

    def update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """One step of LAMB."""
        assert self._norm is not None
        if group["max_grad_norm"]:
            grad.div_((self._norm / group["max_grad_norm"]).clamp(min=1.0))
        decay = group["weight_decay"]
        if not self.adam_w_mode:
            decay_into_gradient(p, grad, decay)
        share = None if group["grad_averaging"] else 1.0
        direction = adam_direction(grad, state, group, share=share)
        if self.adam_w_mode and decay:
            direction.add_(p, alpha=decay)
        if decay or self.use_nvlamb:
            own, step = torch.linalg.vector_norm(p), torch.linalg.vector_norm(direction)
            direction.mul_(torch.where((own > 0) & (step > 0), own / step, 1.0))
        p.sub_(direction, alpha=group["lr"])


class FusedSGD(_Fused):
    """Gradient descent with momentum.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate.
        momentum: Decay of past gradients.
        dampening: The momentum takes 1 - dampening of each gradient but the first.
        weight_decay: The decay, added to the gradient.
        nesterov: Look ahead by the momentum.
        wd_after_momentum: Add the decay after the momentum.
        materialize_master_grads: No effect.
        set_grad_none: `zero_grad` drops gradients.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        wd_after_momentum: bool = False,
        materialize_master_grads: bool = True,
        set_grad_none: bool = False,
    ) -> None:
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
        }
        super().__init__(params, defaults)
        self.wd_after_momentum = wd_after_momentum
        self.set_grad_none = set_grad_none

    def update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """One step."""
        if not self.wd_after_momentum:
            decay_into_gradient(p, grad, group["weight_decay"])
        momentum = group["momentum"]
        if momentum:
            if state:
                past = state["momentum_buffer"]
                past.mul_(momentum).add_(grad, alpha=1 - group["dampening"])
            else:
                past = state["momentum_buffer"] = grad.clone()
            grad = grad.add(past, alpha=momentum) if group["nesterov"] else past.clone()
        if self.wd_after_momentum:
            decay_into_gradient(p, grad, group["weight_decay"])
        p.sub_(grad, alpha=group["lr"])

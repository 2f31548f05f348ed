"""`bitsandbytes.optim`: the optimizers of 32 bits; those of 8 bits keep 32, and say so once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._log import warn_once
from .._missing import unsupported
from .._optimizers import Float32Optimizer, adam_direction, decay_into_gradient

__all__ = [
    "SGD",
    "Adagrad",
    "Adagrad8bit",
    "Adagrad32bit",
    "Adam",
    "Adam8bit",
    "Adam32bit",
    "AdamW",
    "AdamW8bit",
    "AdamW32bit",
    "GlobalOptimManager",
    "Lion",
    "Lion8bit",
    "Lion32bit",
    "PagedAdam",
    "PagedAdam8bit",
    "PagedAdam32bit",
    "PagedAdamW",
    "PagedAdamW8bit",
    "PagedAdamW32bit",
    "PagedLion",
    "PagedLion8bit",
    "PagedLion32bit",
    "RMSprop",
    "RMSprop8bit",
    "RMSprop32bit",
    "SGD8bit",
    "SGD32bit",
]


class GlobalOptimManager:
    """Takes settings of single parameters; all state is of 32 bits, whatever they say."""

    _instance: GlobalOptimManager | None = None

    @classmethod
    def get_instance(cls) -> GlobalOptimManager:
        """The one of the process."""
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    def register_parameters(self, params: Any) -> None:
        """Accepted, without effect."""

    def register_module_override(self, module: Any, param_name: str, config: Any) -> None:
        """Accepted, without effect."""

    def override_config(
        self, parameters: Any, key: Any = None, value: Any = None, **more: Any
    ) -> None:
        """Accepted, without effect."""


class _Optimizer(Float32Optimizer):
    """What all are told.

    Attributes:
        bits: Bits of the state that the name stands for; None where `optim_bits` says it.
    """

    bits: int | None = None

    def _begin(self, params: Any, defaults: dict[str, Any], given: dict[str, Any]) -> None:
        name = f"bitsandbytes.optim.{type(self).__name__}"
        unknown = set(given) - {
            *("optim_bits", "args", "min_8bit_size", "percentile_clipping", "block_wise"),
            *("is_paged", "max_unorm"),
        }
        if unknown:
            raise TypeError(f"{name}() got an unexpected keyword argument {unknown.pop()!r}")
        if given.get("percentile_clipping", 100) != 100:
            raise unsupported(f"{name}(percentile_clipping=...)", "clip gradients with torch")
        if given.get("max_unorm", 0.0):
            raise unsupported(f"{name}(max_unorm=...)", "leave it out")
        if (self.bits or given.get("optim_bits", 32)) == 8:
            warn_once(
                "substitute-8bit",
                f"{name} of torchdevice's substitute keeps its state in 32 bits: it takes four "
                f"times the memory, and its steps are not those of 8 bits.",
            )
        super().__init__(params, defaults)


class Adam(_Optimizer):
    """Adam; its decay is that of AdamW.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate.
        betas: Decay of the moments.
        eps: Added to the root of the second moment.
        weight_decay: The decay.
        amsgrad: Raises unless False.
        **given: `optim_bits`, `args`, `min_8bit_size`, `block_wise` and `is_paged` have no effect;
            `percentile_clipping` raises unless 100.
    """

    _decay = 0.0

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float | None = None,
        amsgrad: bool = False,
        **given: Any,
    ) -> None:
        if amsgrad:
            raise unsupported(f"bitsandbytes.optim.{type(self).__name__}(amsgrad=True)")
        decay = self._decay if weight_decay is None else weight_decay
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": decay}
        self._begin(params, defaults, given)

    def update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """One step of AdamW."""
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.sub_(adam_direction(grad, state, group), alpha=group["lr"])


class AdamW(Adam):
    """AdamW; as `Adam`, with a decay of 0.01 by default."""

    _decay = 1e-2


class SGD(_Optimizer):
    """Gradient descent with momentum.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate.
        momentum: Decay of past gradients, not 0.
        dampening: Raises unless 0.
        weight_decay: The decay, added to the gradient.
        nesterov: Raises unless False.
        **given: As for `Adam`.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        **given: Any,
    ) -> None:
        if momentum == 0:
            raise NotImplementedError("SGD without momentum is not supported!")
        if dampening or nesterov:
            raise unsupported(f"bitsandbytes.optim.{type(self).__name__}(dampening, nesterov)")
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        self._begin(params, defaults, given)

    def update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """One step."""
        decay_into_gradient(p, grad, group["weight_decay"])
        if not state:
            state["momentum_buffer"] = torch.zeros_like(grad)
        past = state["momentum_buffer"].mul_(group["momentum"]).add_(grad)
        p.sub_(past, alpha=group["lr"])


class Lion(_Optimizer):
    """Lion: steps of one size, by the sign of the momentum.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate.
        betas: Share of the momentum in the step, and its decay.
        weight_decay: The decay, of parameters.
        **given: As for `Adam`.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        **given: Any,
    ) -> None:
        self._begin(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay}, given)

    def update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """One step."""
        beta1, beta2 = group["betas"]
        if not state:
            state["exp_avg"] = torch.zeros_like(grad)
        past = state["exp_avg"]
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.sub_(past.mul(beta1).add_(grad, alpha=1 - beta1).sign_(), alpha=group["lr"])
        past.mul_(beta2).add_(grad, alpha=1 - beta2)


class RMSprop(_Optimizer):
    """RMSprop.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate.
        alpha: Decay of the squares, not 0.
        eps: Added to their root.
        weight_decay: The decay, added to the gradient.
        momentum: Raises unless 0.
        centered: Raises unless False.
        **given: As for `Adam`.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        **given: Any,
    ) -> None:
        if alpha == 0:
            raise NotImplementedError("RMSprop with alpha==0.0 is not supported!")
        if centered:
            raise NotImplementedError("Centered RMSprop is not supported!")
        if momentum:
            raise unsupported(f"bitsandbytes.optim.{type(self).__name__}(momentum=...)")
        defaults = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay}
        self._begin(params, defaults, given)

    def update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """One step."""
        decay_into_gradient(p, grad, group["weight_decay"])
        if not state:
            state["square_avg"] = torch.zeros_like(grad)
        squares, alpha = state["square_avg"], group["alpha"]
        squares.mul_(alpha).addcmul_(grad, grad, value=1 - alpha)
        p.addcdiv_(grad, squares.sqrt().add_(group["eps"]), value=-group["lr"])


class Adagrad(_Optimizer):
    """Adagrad.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate.
        lr_decay: Raises unless 0.
        weight_decay: The decay, added to the gradient.
        initial_accumulator_value: Raises unless 0.
        eps: Added to the root of the squares.
        **given: As for `Adam`.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        **given: Any,
    ) -> None:
        if initial_accumulator_value != 0.0:
            raise ValueError("Initial accumulator value != 0.0 not supported!")
        if lr_decay != 0.0:
            raise ValueError("Lr Decay != 0.0 not supported!")
        self._begin(params, {"lr": lr, "eps": eps, "weight_decay": weight_decay}, given)

    def update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """One step."""
        decay_into_gradient(p, grad, group["weight_decay"])
        if not state:
            state["sum"] = torch.zeros_like(grad)
        state["sum"].addcmul_(grad, grad)
        p.addcdiv_(grad, state["sum"].sqrt().add_(group["eps"]), value=-group["lr"])


def _named(base: type[_Optimizer], prefix: str, bits: int | None) -> Any:
    name = f"{prefix}{base.__name__}{f'{bits}bit' if bits else ''}"
    about = f"As `{base.__name__}`" + (f", for a state of {bits} bits." if bits else ".")
    return type(name, (base,), {"bits": bits, "__doc__": about, "__module__": __name__})


Adam8bit, Adam32bit = _named(Adam, "", 8), _named(Adam, "", 32)
AdamW8bit, AdamW32bit = _named(AdamW, "", 8), _named(AdamW, "", 32)
SGD8bit, SGD32bit = _named(SGD, "", 8), _named(SGD, "", 32)
Lion8bit, Lion32bit = _named(Lion, "", 8), _named(Lion, "", 32)
RMSprop8bit, RMSprop32bit = _named(RMSprop, "", 8), _named(RMSprop, "", 32)
Adagrad8bit, Adagrad32bit = _named(Adagrad, "", 8), _named(Adagrad, "", 32)
PagedAdam, PagedAdamW, PagedLion = (_named(one, "Paged", None) for one in (Adam, AdamW, Lion))
PagedAdam8bit, PagedAdam32bit = _named(Adam, "Paged", 8), _named(Adam, "Paged", 32)
PagedAdamW8bit, PagedAdamW32bit = _named(AdamW, "Paged", 8), _named(AdamW, "Paged", 32)
PagedLion8bit, PagedLion32bit = _named(Lion, "Paged", 8), _named(Lion, "Paged", 32)

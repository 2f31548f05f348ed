"""`apex.amp`: mixed precision, by torch's autocast (O1) or by casting the model (O2, O3)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .levels import LEVELS, Properties, prepare_model
from .scaling import LossScaler, amp_of, prepare_optimizer

__all__ = ["initialize", "load_state_dict", "master_params", "scale_loss", "state_dict"]


class _State:
    """What the last `initialize` said, for the process."""

    def __init__(self) -> None:
        self.properties: Properties | None = None
        self.scalers: list[LossScaler] = []
        self.verbosity = 1


_state = _State()


def initialize(
    models: nn.Module | Sequence[nn.Module],
    optimizers: Optimizer | Sequence[Optimizer] | None = None,
    enabled: bool = True,
    opt_level: str = "O1",
    cast_model_type: torch.dtype | None = None,
    patch_torch_functions: bool | None = None,
    keep_batchnorm_fp32: bool | str | None = None,
    master_weights: bool | None = None,
    loss_scale: float | str | None = None,
    cast_model_outputs: torch.dtype | None = None,
    num_losses: int = 1,
    verbosity: int = 1,
    min_loss_scale: float | None = None,
    max_loss_scale: float = 2.0**24,
) -> Any:
    """Make models and optimizers ready for mixed precision.

    Args:
        models: One or several, in float32.
        optimizers: One or several, or none.
        enabled: False changes nothing, and makes `scale_loss` give losses as they are.
        opt_level: `"O0"` float32, `"O1"` cast by operator, `"O2"` float16 with parameters kept in
            float32, `"O3"` float16.
        cast_model_type: Overrides the level's, like what follows; see `Properties`.
        patch_torch_functions: Likewise.
        keep_batchnorm_fp32: Likewise; also as text.
        master_weights: Likewise.
        loss_scale: Likewise; also as text.
        cast_model_outputs: Likewise.
        num_losses: How many losses have a scale of their own.
        verbosity: 0 says nothing where a step is skipped.
        min_loss_scale: The least that a dynamic scale becomes.
        max_loss_scale: The most.

    Returns:
        The models, and the optimizers where they were given, each as they came.

    Raises:
        RuntimeError: For an unknown level, or a model that is not in float32.
    """
    _state.verbosity = verbosity
    if not enabled:
        _state.properties = Properties(enabled=False)
        return models if optimizers is None else (models, optimizers)
    if opt_level not in LEVELS:
        raise RuntimeError(
            f"Unexpected optimization level {opt_level}. Options are 'O0', 'O1', 'O2', 'O3'."
        )
    given = {
        "cast_model_type": cast_model_type,
        "patch_torch_functions": patch_torch_functions,
        "keep_batchnorm_fp32": keep_batchnorm_fp32,
        "master_weights": master_weights,
        "loss_scale": loss_scale,
        "cast_model_outputs": cast_model_outputs,
    }
    properties = LEVELS[opt_level].with_given(given)
    for model in _listed(models):
        prepare_model(model, properties)
    for optimizer in _listed(optimizers):
        prepare_optimizer(optimizer, master_weights=bool(properties.master_weights))
    _state.properties = properties
    _state.scalers = [
        LossScaler(properties.loss_scale, min_loss_scale, max_loss_scale) for _ in range(num_losses)
    ]
    return models if optimizers is None else (models, optimizers)


def _listed(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


@contextmanager
def scale_loss(
    loss: Tensor,
    optimizers: Optimizer | Sequence[Optimizer],
    loss_id: int = 0,
    model: Any = None,
    delay_unscale: bool = False,
    delay_overflow_check: bool = False,
) -> Iterator[Tensor]:
    """Give the loss for `backward`, and unscale gradients at the end of the block.

    Args:
        loss: The loss.
        optimizers: Whose parameters get gradients from it.
        loss_id: Which of the scales.
        model: No effect.
        delay_unscale: Leave gradients scaled; a later block without it unscales their sum.
        delay_overflow_check: No effect, as in Apex.

    Yields:
        The loss times the scale, in float32.

    Raises:
        RuntimeError: Before `initialize`.
    """
    properties = _state.properties
    if properties is None:
        raise RuntimeError(
            "Invoked 'with amp.scale_loss', but internal Amp state has not been initialized. "
            "model, optimizer = amp.initialize(model, optimizer, opt_level=...) must be called "
            "before 'with amp.scale_loss'."
        )
    if not properties.enabled:
        yield loss
        return
    scaler = _state.scalers[loss_id]
    prepared = [(one, amp_of(one)) for one in _listed(optimizers)]
    for optimizer, amp in prepared:
        amp.before_backward(optimizer)
    scale = scaler.loss_scale()
    yield loss.float() * scale
    if delay_unscale:
        for _, amp in prepared:
            amp.scaled = True
        return
    fresh = [g for optimizer, amp in prepared for g in amp.after_backward(optimizer, scale)]
    overflow = scaler.dynamic and _overflows(fresh)
    if scaler.update(overflow):
        for _, amp in prepared:
            amp.skip = True
        if _state.verbosity:
            print(
                f"Gradient overflow.  Skipping step, loss scaler {loss_id} reducing loss scale to "
                f"{scaler.loss_scale()}"
            )


def _overflows(grads: list[Tensor]) -> bool:
    """Whether a gradient is infinite or no number; waits for the device once."""
    if not grads:
        return False
    finite = torch.stack([torch.isfinite(g).all() for g in grads])
    return not bool(finite.all().item())


def master_params(optimizer: Optimizer) -> Iterator[Tensor]:
    """The parameters that an optimizer optimizes, in float32 where it keeps copies.

    Args:
        optimizer: Prepared by `initialize` or not.

    Yields:
        Each.
    """
    for group in optimizer.param_groups:
        yield from group["params"]


def state_dict(destination: dict[str, Any] | None = None) -> dict[str, Any]:
    """The loss scales, to be saved beside model and optimizer.

    Args:
        destination: What to fill; None for a new dictionary.

    Returns:
        It.
    """
    saved = OrderedDict() if destination is None else destination
    for index, scaler in enumerate(_state.scalers):
        saved[f"loss_scaler{index}"] = {
            "loss_scale": scaler.loss_scale(),
            "unskipped": scaler.unskipped,
        }
    return saved


def load_state_dict(state_dict: dict[str, Any]) -> None:
    """Go on with saved loss scales, after `initialize`.

    Args:
        state_dict: What the function of that name gave.

    Raises:
        RuntimeError: For keys that are not of a loss scale.
    """
    unknown = [name for name in state_dict if not name.startswith("loss_scaler")]
    if unknown:
        raise RuntimeError(f"Error(s) in loading state_dict. Unexpected key(s): {unknown}")
    for name, saved in state_dict.items():
        index = int(name.removeprefix("loss_scaler"))
        if index < len(_state.scalers):
            _state.scalers[index].scale = saved["loss_scale"]
            _state.scalers[index].unskipped = saved["unskipped"]

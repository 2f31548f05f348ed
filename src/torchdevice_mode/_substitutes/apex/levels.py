"""What each `opt_level` of `apex.amp` means, and how a model is made ready for it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["LEVELS", "Properties", "prepare_model"]


@dataclass(frozen=True)
class Properties:
    """How a model and its optimizers compute.

    Attributes:
        enabled: Whether anything is done at all.
        opt_level: The level that these began as.
        cast_model_type: Type that parameters and inputs are cast to; None for none.
        patch_torch_functions: Cast operator by operator, as autocast does.
        keep_batchnorm_fp32: Leave batch norms in float32.
        master_weights: Keep parameters in float32 for the optimizer.
        loss_scale: What the loss is multiplied by, or `"dynamic"`.
        cast_model_outputs: Type that results are cast to; None for float32 where inputs are cast.
    """

    enabled: bool = True
    opt_level: str = "O1"
    cast_model_type: torch.dtype | None = None
    patch_torch_functions: bool = False
    keep_batchnorm_fp32: bool | None = None
    master_weights: bool | None = None
    loss_scale: float | str = 1.0
    cast_model_outputs: torch.dtype | None = None

    def with_given(self, given: Mapping[str, Any]) -> Properties:
        """These, but for what was given; strings are read as they come from a command line."""
        values = {name: value for name, value in given.items() if value is not None}
        keep = values.get("keep_batchnorm_fp32")
        if isinstance(keep, str):
            if keep not in ("True", "False"):
                raise RuntimeError(f"keep_batchnorm_fp32={keep!r} is neither 'True' nor 'False'")
            values["keep_batchnorm_fp32"] = keep == "True"
        scale = values.get("loss_scale")
        if scale is not None and scale != "dynamic":
            values["loss_scale"] = float(scale)
        if values.get("cast_model_type") is False:
            values["cast_model_type"] = None
        return replace(self, **values)


LEVELS: dict[str, Properties] = {
    "O0": Properties(
        opt_level="O0", cast_model_type=torch.float32, master_weights=False, loss_scale=1.0
    ),
    "O1": Properties(opt_level="O1", patch_torch_functions=True, loss_scale="dynamic"),
    "O2": Properties(
        opt_level="O2",
        cast_model_type=torch.float16,
        keep_batchnorm_fp32=True,
        master_weights=True,
        loss_scale="dynamic",
    ),
    "O3": Properties(
        opt_level="O3",
        cast_model_type=torch.float16,
        keep_batchnorm_fp32=False,
        master_weights=False,
        loss_scale=1.0,
    ),
}


def prepare_model(model: nn.Module, properties: Properties) -> None:
    """Cast a model's parameters, and its inputs and results whenever it is called.

    Args:
        model: The model, in float32; changed in place.
        properties: What to do.

    Raises:
        RuntimeError: For a model that is not in float32, or is wrapped for several processes.
    """
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    if isinstance(model, wrappers):
        raise RuntimeError(
            f"Incoming model is an instance of {type(model)}. Parallel wrappers should only be "
            f"applied to the model(s) AFTER the model(s) have been returned from amp.initialize."
        )
    for name, param in model.named_parameters():
        if param.is_floating_point() and param.dtype != torch.float32:
            raise RuntimeError(
                f"Found param {name} with type {param.dtype}, expected torch.float32. When using "
                f"amp.initialize, you do not need to call .half() on your model before passing it."
            )
    dtype = properties.cast_model_type
    if dtype is not None:
        if dtype != torch.float32:
            _cast(model, dtype, keep_batch_norm=bool(properties.keep_batchnorm_fp32))
            model.register_state_dict_post_hook(_saved_in_float32)
        results = properties.cast_model_outputs or torch.float32
        _wrap_forward(model, _casting(dtype, results))
    elif properties.patch_torch_functions:
        _wrap_forward(model, _autocasting)
    elif properties.cast_model_outputs is not None:
        _wrap_forward(model, _casting(None, properties.cast_model_outputs))


def _cast(model: nn.Module, dtype: torch.dtype, *, keep_batch_norm: bool) -> None:
    for module in model.modules():
        if keep_batch_norm and isinstance(module, _BatchNorm) and module.affine:
            # Not every device takes an input and a weight of two types.
            module.register_forward_pre_hook(_to_float32)
            module.register_forward_hook(_to_type_of_input)
            continue
        for param in module.parameters(recurse=False):
            if param.is_floating_point():
                param.data = param.data.to(dtype)
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(module, name, buffer.to(dtype))


def _to_float32(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    vars(module)["_amp_type_of_input"] = args[0].dtype
    return (args[0].float(), *args[1:])


def _to_type_of_input(module: nn.Module, args: Any, result: Tensor) -> Tensor:
    return result.to(vars(module)["_amp_type_of_input"])


def _saved_in_float32(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: Any
) -> None:
    """Saved models are in float32, whatever they compute in."""
    for name, value in state_dict.items():
        if isinstance(value, Tensor) and value.dtype == torch.float16:
            state_dict[name] = value.float()


def _wrap_forward(model: nn.Module, wrap: Any) -> None:
    forward = model.forward
    model.forward = functools.wraps(forward)(wrap(model, forward))


def _casting(inputs: torch.dtype | None, results: torch.dtype) -> Any:
    def wrap(model: nn.Module, forward: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if inputs is not None:
                args, kwargs = _applied((args, kwargs), inputs)
            return _applied(forward(*args, **kwargs), results)

        return call

    return wrap


def _autocasting(model: nn.Module, forward: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        first = next(model.parameters(), None)
        device = "cuda" if first is None else first.device.type
        with torch.autocast(device, dtype=torch.float16):
            result = forward(*args, **kwargs)
        # Apex goes on casting outside, so that a loss is computed in float32.
        return _applied(result, torch.float32)

    return call


def _applied(value: Any, dtype: torch.dtype) -> Any:
    """Cast the floating-point tensors in lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_applied(one, dtype) for one in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_applied(one, dtype) for one in value)
    if isinstance(value, Mapping):
        for name in list(value):
            value[name] = _applied(value[name], dtype)  # type: ignore[index]
        return value
    return value

"""`SyncBatchNorm` on any device, by operators that every device has.

Torch's own calls kernels that exist for CUDA only. The statistics are those of the batches of all
ranks together, also where the batches differ in size: mean, squared deviation and count of each
rank are gathered and combined.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm

__all__ = ["normalize"]


def normalize(module: SyncBatchNorm, input: torch.Tensor) -> torch.Tensor:
    """What `SyncBatchNorm.forward` gives while training.

    Args:
        module: The layer.
        input: A batch with channels in dimension 1.

    Returns:
        The normalised batch.

    Raises:
        ValueError: If the input has fewer than two dimensions, or no channels.
    """
    group = None
    if dist.is_initialized():
        group = module.process_group or dist.group.WORLD
    if group is None or dist.get_world_size(group) == 1:
        return _BatchNorm.forward(module, input)
    module._check_input_dim(input)
    module._check_non_zero_input_channels(input)
    factor = module.momentum or 0.0
    mean, variance = module.running_mean, module.running_var
    if module.track_running_stats:
        assert module.num_batches_tracked is not None
        module.num_batches_tracked.add_(1)
        if module.momentum is None:
            factor = 1.0 / float(module.num_batches_tracked.item())
    else:
        mean = variance = None
    result: torch.Tensor = _Normalize.apply(
        input, module.weight, module.bias, mean, variance, module.eps, factor, group
    )
    return result


def _along(vector: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A vector over the channels, to be broadcast over a batch."""
    return vector.reshape(1, -1, *[1] * (like.dim() - 2))


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - `apply` takes no names
        ctx: Any,
        input: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        running_mean: torch.Tensor | None,
        running_var: torch.Tensor | None,
        eps: float,
        factor: float,
        group: Any,
    ) -> torch.Tensor:
        values = _wide(input)
        over = [0, *range(2, values.dim())]
        count = values.numel() // values.size(1)
        if count:
            variance, mean = torch.var_mean(values, over, correction=0)
        else:  # a rank without samples takes part all the same
            variance = mean = values.new_zeros(values.size(1))
        local = torch.cat([mean, variance, mean.new_full((1,), count)])
        gathered = [torch.empty_like(local) for _ in range(dist.get_world_size(group))]
        dist.all_gather(gathered, local, group)
        channels = values.size(1)
        means, variances, counts = torch.stack(gathered).split([channels, channels, 1], dim=1)
        total = counts.sum()
        mean = (means * counts).sum(0) / total
        variance = ((variances + (means - mean) ** 2) * counts).sum(0) / total
        if running_mean is not None and running_var is not None:
            unbiased = variance * (total / (total - 1))
            running_mean.lerp_(mean.to(running_mean.dtype), factor)
            running_var.lerp_(unbiased.to(running_var.dtype), factor)
        scale = torch.rsqrt(variance + eps)
        ctx.save_for_backward(input, weight, mean, scale, total)
        ctx.group = group
        ctx.has_bias = bias is not None
        result = (values - _along(mean, values)) * _along(scale, values)
        if weight is not None:
            result = result * _along(weight, values)
        if bias is not None:
            result = result + _along(bias, values)
        return result.to(input.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        input, weight, mean, scale, total = ctx.saved_tensors
        values, grad = _wide(input), _wide(grads[0])
        over = [0, *range(2, values.dim())]
        centred = values - _along(mean, values)
        grad_sum, product_sum = grad.sum(over), (grad * centred).sum(over)
        sums = torch.cat([grad_sum, product_sum])
        # Each rank's output depends on all ranks' inputs.
        dist.all_reduce(sums, group=ctx.group)
        of_grad, of_product = (sums / total).split(values.size(1))
        slope = scale if weight is None else scale * weight
        grad_input = _along(slope, values) * (
            grad - _along(of_grad, values) - centred * _along(scale**2 * of_product, values)
        )
        grad_weight = None if weight is None else (product_sum * scale).to(weight.dtype)
        grad_bias = grad_sum.to(weight.dtype if weight is not None else input.dtype)
        bias = grad_bias if ctx.has_bias else None
        return grad_input.to(input.dtype), grad_weight, bias, None, None, None, None, None


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """The dtype that batch norm computes in: half precision is too narrow for sums."""
    narrow = tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.float() if narrow else tensor

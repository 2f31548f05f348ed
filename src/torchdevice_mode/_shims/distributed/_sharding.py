"""Operators that DTensors meet on the target, and on CUDA do not.

On CUDA a linear layer is a product of matrices, and attention is one of CUDA's kernels, which
DTensor knows how to shard. MPS has a kernel for linear layers, the CPU one for attention, and of
them DTensor knows nothing: it raises `NotImplementedError`, in plain torch too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..._patches import Hook

__all__ = ["PATCHES"]

_aten = torch.ops.aten


def _linear_backward(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The gradients of a linear layer as products, which DTensor can shard."""
    x, gradient, weight, (for_x, for_weight, for_bias) = args
    gradients = gradient.reshape(-1, gradient.shape[-1])
    return (
        gradient @ weight if for_x else None,
        gradients.t() @ x.reshape(-1, x.shape[-1]) if for_weight else None,
        gradients.sum(0) if for_bias else None,
    )


# What is computed of other operators, by operator.
_COMPUTED: dict[str, Callable[..., Any]] = {"linear_backward": _linear_backward}

# Attention, by operator: how many of its results, and of the tensors that it needs, have the batch
# and the heads as their first two dimensions.
_ATTENTION: dict[str, tuple[int, int]] = {
    "_scaled_dot_product_flash_attention_for_cpu": (2, 3),
    "_scaled_dot_product_flash_attention_for_cpu_backward": (3, 6),
    "_scaled_dot_product_attention_math_for_mps": (2, 3),
}


def _register() -> Callable[[], None]:
    """Tell DTensor of the operators that this torch has; what is returned takes it back."""
    from torch.distributed.tensor import DTensor

    dispatcher: Any = DTensor._op_dispatcher
    propagator = dispatcher.sharding_propagator
    added: list[tuple[dict[Any, Any], Any]] = []

    def add(table: dict[Any, Any], operator: Any, value: Any) -> None:
        if operator not in table:
            table[operator] = value
            added.append((table, operator))

    for name, compute in _COMPUTED.items():
        add(dispatcher._custom_op_handlers, getattr(_aten, name).default, compute)
    for name, (results, tensors) in _ATTENTION.items():
        packet = getattr(_aten, name, None)
        if packet is not None and packet.default not in propagator.op_strategy_funcs:
            propagator.register_op_strategy(
                packet.default, _by_batch_or_heads(results, tensors), _every_argument()
            )
            added.append((propagator.op_strategy_funcs, packet.default))
            added.append((propagator.op_to_schema_info, packet.default))

    def take_back() -> None:
        for table, operator in added:
            table.pop(operator, None)

    return take_back


def _every_argument() -> Any:
    """What decides whether a strategy that was found once is used again: every argument."""
    from torch.distributed.tensor._op_schema import RuntimeSchemaInfo

    return RuntimeSchemaInfo(static_argnum=0, needs_pytree=True)


def _by_batch_or_heads(results: int, tensors: int) -> Callable[[Any], Any]:
    """How attention can be sharded; a mask may have one row for all, so it is on every rank."""

    def strategy(schema: Any) -> Any:
        from torch.distributed.tensor import Replicate, Shard
        from torch.distributed.tensor._ops.utils import expand_to_full_mesh_op_strategy

        given = len(schema.args_strategy) + len(getattr(schema, "kwargs_strategy", ()))
        masks = [Replicate()] * (given - tensors)
        placements: list[Any] = [Replicate(), Shard(0), Shard(1)]
        ways = [[placement] * (results + tensors) + masks for placement in placements]
        return expand_to_full_mesh_op_strategy(
            schema.get_mesh_from_args(), schema, ways, input_index=results
        )

    return strategy


PATCHES: dict[str, tuple[Hook, ...]] = {
    "torch.distributed.tensor": (
        Hook(_register, "DTensor refuses operators that it has no sharding strategy for"),
    ),
}

"""Native rollout: packed weights and addresses for csrc/cpu/rollout.cpp; float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rearec_kernels import _C  # type: ignore[attr-defined]
from rearec_kernels.addresses import prefix_operand, rows_operand
from rearec_kernels.cpu.memory import empty
from rearec_kernels.layer_weights import LayerWeights


def pack_layers(tensors: list[Tensor]) -> list[Tensor]:
    """All weights in one tensor, in the order in which a step reads them."""
    layers = (len(tensors) - 2) // len(LayerWeights._fields)
    inner = tensors[2 + LayerWeights._fields.index("inner_weight")]
    stack = (layers, 1, inner.shape[1], inner.shape[0], 0.0)
    dense = [x.contiguous() for x in tensors]
    packed = torch.empty(_C.packed_layers_floats(stack), dtype=torch.float32, device="cpu")
    _C.pack_layers(stack, [x.data_ptr() for x in dense], packed.data_ptr())
    return [packed]


def rollout(
    hidden: Tensor, weights: Sequence[Tensor], position_embedding: Tensor | None, keys: Sequence[Tensor],
    values: Sequence[Tensor], start: Tensor, end: Tensor, row_prefix: Tensor, order: Tensor,
    heads: int, ffn: int, steps: int, norm_eps: float,
) -> Tensor:  # fmt: skip
    rows, width = hidden.shape
    states = empty((rows, steps + 1, width))
    positions = None if position_embedding is None else position_embedding.contiguous()
    _C.rollout(
        (len(keys), heads, width // heads, ffn, norm_eps),
        weights[0].data_ptr(), 0 if positions is None else positions.data_ptr(),
        [prefix_operand(k, v) for k, v in zip(keys, values, strict=True)],
        rows_operand(start, end, row_prefix, order),
        steps, hidden.data_ptr(), states.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return states

"""Native rollout: packed weights and addresses for csrc/cpu/rollout.cpp; float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rearec_kernels import native
from rearec_kernels.addresses import prefix_tuple, rows_tuple
from rearec_kernels.cpu.memory import empty
from rearec_kernels.layer_weights import LayerWeights
from rearec_kernels.ops.arguments import Rollout, Rows
from rearec_kernels.ops.rollout import tokens_shape


def pack_layers(tensors: Sequence[Tensor]) -> list[Tensor]:
    """All weights in one tensor, in the order in which a step reads them."""
    layers = (len(tensors) - 2) // len(LayerWeights._fields)
    inner = tensors[2 + LayerWeights._fields.index("inner_weight")]
    stack = (layers, 1, inner.shape[1], inner.shape[0], 0.0)
    dense = [x.contiguous() for x in tensors]
    packed = torch.empty(native.C.packed_layers_floats(stack), dtype=torch.float32, device="cpu")
    native.C.pack_layers(stack, [x.data_ptr() for x in dense], packed.data_ptr())
    return [packed]


def rollout(args: Rollout, rows: Rows) -> tuple[Tensor, Tensor]:
    (packed,) = args.weights if args.packed else pack_layers(args.weights)
    count, width = args.hidden.shape
    states, tokens = empty((count, args.steps + 1, width)), empty(tokens_shape(args))
    positions = None if args.position_embedding is None else args.position_embedding.contiguous()
    native.C.rollout(
        (len(args.keys), args.heads, width // args.heads, args.ffn, args.norm_eps),
        packed.data_ptr(), 0 if positions is None else positions.data_ptr(),
        [prefix_tuple(k, v) for k, v in zip(args.keys, args.values, strict=True)],
        rows_tuple(*rows),
        args.steps, args.hidden.data_ptr(), states.data_ptr(), tokens.data_ptr() if args.keep else 0,
        torch.get_num_threads(),
    )  # fmt: skip
    return states, tokens

"""The op of the rollout without gradients; it is not differentiated."""

from __future__ import annotations

from rearec_kernels.ops.registry import define

# weights: what the backend's `pack_layers` made of them.
define(
    "rollout",
    "(Tensor hidden, Tensor[] weights, Tensor? position_embedding, Tensor[] keys, Tensor[] values, Tensor start, "
    "Tensor end, Tensor row_prefix, Tensor order, int heads, int ffn, int steps, float norm_eps, str backend) "
    "-> Tensor",
    lambda hidden, *rest: hidden.new_empty((hidden.shape[0], rest[-3] + 1, hidden.shape[1])),
)

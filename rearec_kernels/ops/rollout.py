"""The op of the rollout without gradients; it is not differentiated."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rearec_kernels.dispatch import implementation
from rearec_kernels.ops.registry import define


def _rollout(hidden: Tensor, weights: list[Tensor], packed: bool, *rest: Any) -> Tensor:
    *arguments, backend = rest
    if not packed:
        weights = implementation(backend, "pack_layers")(weights)
    return implementation(backend, "rollout")(hidden, weights, *arguments)


# weights: with `packed`, what the backend's `pack_layers` made of them.
define(
    "rollout",
    "(Tensor hidden, Tensor[] weights, bool packed, Tensor? position_embedding, Tensor[] keys, Tensor[] values, "
    "Tensor start, Tensor end, Tensor row_prefix, Tensor order, int heads, int ffn, int steps, float norm_eps, "
    "str backend) -> Tensor",
    lambda hidden, *rest: hidden.new_empty((hidden.shape[0], rest[-3] + 1, hidden.shape[1])),
    run=_rollout,
    not_differentiated="reasoning_rollout",
)

"""The op of the rollout without gradients; it is not differentiated."""

from __future__ import annotations

from torch import Tensor

from rearec_kernels.ops.arguments import Rollout, Rows
from rearec_kernels.ops.registry import define


def _fake(args: Rollout, _: Rows) -> tuple[Tensor, Tensor]:
    rows, width = args.hidden.shape
    return args.hidden.new_empty((rows, args.steps + 1, width)), args.hidden.new_empty(tokens_shape(args))


def tokens_shape(args: Rollout) -> tuple[int, ...]:
    """[layers, 2, R, K, heads, d / heads]: K and V of the new tokens; [0] where they are not kept."""
    rows, width = args.hidden.shape
    return (len(args.keys), 2, rows, args.steps, args.heads, width // args.heads) if args.keep else (0,)


define("rollout", (Rollout, Rows), "(Tensor, Tensor)", _fake, family="rollout", not_differentiated="reasoning_rollout")

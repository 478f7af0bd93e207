"""The op of the rollout without gradients; it is not differentiated."""

from __future__ import annotations

from torch import Tensor

from rearec_kernels.ops.arguments import Rollout, Rows
from rearec_kernels.ops.registry import define


def _fake(args: Rollout, _: Rows) -> Tensor:
    return args.hidden.new_empty((args.hidden.shape[0], args.steps + 1, args.hidden.shape[1]))


define("rollout", (Rollout, Rows), "Tensor", _fake, family="rollout", not_differentiated="reasoning_rollout")

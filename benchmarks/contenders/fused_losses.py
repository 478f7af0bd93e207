"""Other libraries' cross-entropies that never hold all logits: of hidden [R, d], weight [N, d] and target [R]."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

FusedLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


def _torch() -> FusedLoss:
    return F.linear_cross_entropy  # from torch 2.13


def _torch_chunked() -> FusedLoss:
    return partial(F.linear_cross_entropy, options=torch.nn.LinearCrossEntropyOptions())


def _liger() -> FusedLoss:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss()
    return lambda hidden, weight, target: loss(weight, hidden, target)


def _cut() -> FusedLoss:
    from cut_cross_entropy import linear_cross_entropy

    return linear_cross_entropy


# Raises where there is none.
FUSED: dict[str, Callable[[], FusedLoss]] = {
    "F.linear_cross_entropy": _torch,
    "F.linear_cross_entropy, chunked": _torch_chunked,
    "Liger-Kernel": _liger,
    "cut-cross-entropy": _cut,
}

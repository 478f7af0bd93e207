"""A sample in place of the catalogue: every item's exp(z) divided by the probability that it is in the sample.

The correction is part of the product that makes the logits. The table gets more columns, which hold -log q, the states
as many, which hold their temperature: the kernels, which know nothing of it, compute (h @ w - tau log q) / tau.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rearec_kernels.arguments import check_same_device, checks_values, describe

# So many columns are added whatever they hold: a width that is a multiple of 8 stays one.
COLUMNS = 8
# The product of two sums of three bfloat16 numbers each, without the terms that float32 would lose: which part of the
# temperature meets which of -log q. Parts of bfloat16 are exact in every precision that rounds operands.
_PAIRS = ((0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (2, 0))
_EXACT = (torch.float32, torch.float64)


def sampled(
    op: str,
    hidden: Tensor,
    weight: Tensor,
    log_inclusion: Tensor,
    certain: Tensor,
    temperature: Tensor,
    precision: str,
) -> tuple[Tensor, Tensor]:
    """States [R, T, d + 8] and table [N, d + 8] whose products, over their temperature, are z - log q.

    Args:
        log_inclusion: log q, [N].
        certain: integers of any shape, the items that must have 0 there; negative ones are none.
        temperature: float64 [T], on the CPU.

    Raises:
        TypeError, ValueError: log_inclusion has the wrong type, shape, device or values.
    """
    _check(op, log_inclusion, hidden, weight)
    _check_numbers(op, log_inclusion, certain)
    rounds = precision != "fp32" or hidden.dtype not in _EXACT or weight.dtype not in _EXACT
    of_states = _columns(temperature.to(hidden.device), 0, rounds).to(hidden.dtype).expand(hidden.shape[0], -1, -1)
    of_items = _columns(-log_inclusion.double(), 1, rounds).to(weight.dtype)
    return torch.cat([hidden, of_states], dim=2), torch.cat([weight, of_items], dim=1)


def _check(op: str, log_inclusion: Tensor, hidden: Tensor, weight: Tensor) -> None:
    if not isinstance(log_inclusion, Tensor) or not log_inclusion.is_floating_point():
        raise TypeError(f"{op}: log_inclusion must be a floating-point tensor [N], got {describe(log_inclusion)}")
    if log_inclusion.shape != weight.shape[:1]:
        raise ValueError(
            f"{op}: log_inclusion must have shape [N] with N = {weight.shape[0]}, got {list(log_inclusion.shape)}"
        )
    if log_inclusion.requires_grad:
        raise ValueError(f"{op}: log_inclusion is not differentiated, got a tensor that requires a gradient; detach it")
    check_same_device(op, {"hidden": hidden, "log_inclusion": log_inclusion})


def _check_numbers(op: str, log_inclusion: Tensor, certain: Tensor) -> None:
    """Raises ValueError for what is no logarithm of a probability and for a target that is not there for certain."""
    if torch.compiler.is_compiling() or not checks_values(log_inclusion.device):
        return
    wrong = ~(log_inclusion.isfinite() & (log_inclusion <= 0))
    if bool(wrong.any()):
        item = int(wrong.nonzero()[0])
        raise ValueError(
            f"{op}: log_inclusion must be finite and at most 0, got {float(log_inclusion[item])} for item {item}"
        )
    items = certain[(certain >= 0) & (certain < len(log_inclusion))].long()  # of others the op tells
    uncertain = items[log_inclusion[items] != 0]
    if len(uncertain) > 0:
        item = int(uncertain[0])
        raise ValueError(
            f"{op}: log_inclusion must be 0 for every target, which is there for certain, "
            f"got {float(log_inclusion[item])} for item {item}"
        )


def _columns(x: Tensor, side: int, rounds: bool) -> Tensor:
    """[n] -> [n, 8]: x itself, or its parts in the order of one side of the pairs; 0 behind them."""
    columns = x.new_zeros(len(x), COLUMNS)
    if not rounds:
        columns[:, 0] = x
        return columns
    parts = []
    for _ in range(3):
        parts.append(x.to(torch.bfloat16).to(x.dtype))
        x = x - parts[-1]
    columns[:, : len(_PAIRS)] = torch.stack([parts[pair[side]] for pair in _PAIRS], dim=1)
    return columns

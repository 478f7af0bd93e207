"""Dropout, residual, LayerNorm, dropout in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rearec_kernels.ops.arguments import LayerNorm
from rearec_kernels.reference.philox import philox

_BLOCK = 128  # elements per 16 counters of 4 words of 2 halves


def dropout_add_layer_norm(args: LayerNorm) -> Tensor:
    """Differentiable as it stands. Without a seed the masks are those of torch's generator."""
    total = _dropout(args.x, args.dropout_p, args.seed, 0)
    if args.residual is not None:
        total = total + args.residual
    normalized = F.layer_norm(total, args.weight.shape, args.weight, args.bias, args.eps)
    return _dropout(normalized, args.output_dropout_p, args.seed, 1)


def _dropout(x: Tensor, dropout_p: float, seed: Tensor | None, stream: int) -> Tensor:
    if seed is None or dropout_p == 0:
        return F.dropout(x, dropout_p)
    threshold = min(int(dropout_p * 65536 + 0.5), 65535)
    dropped = element_bits(seed, stream, x.numel()).view(x.shape) < threshold
    return x.masked_fill(dropped, 0) * (65536 / (65536 - threshold))


def element_bits(seed: Tensor, stream: int, count: int) -> Tensor:
    """int64 [count] in [0, 2^16): element i is dropped where its 16 bits are below p 2^16, rounded.

    Those of element i = 128 b + n are half (n / 16) % 2 of word n / 32 of Philox with the counter
    (low and high word of 16 b + n % 16, stream, 0).
    """
    blocks = -(-count // _BLOCK)
    counter = torch.arange(16 * blocks, device=seed.device)
    zero = torch.zeros_like(counter)
    words = torch.stack(philox(seed, counter & 0xFFFFFFFF, counter >> 32, zero + stream, zero))
    halves = torch.stack([words & 0xFFFF, words >> 16], dim=1)  # [words, halves, blocks * lanes]
    return halves.view(4, 2, blocks, 16).permute(2, 0, 1, 3).flatten()[:count]

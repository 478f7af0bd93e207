"""Dropout, residual, LayerNorm, dropout in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rearec_kernels.ops.arguments import LayerNorm, MaskRows
from rearec_kernels.reference.philox import philox

_BLOCK = 128  # elements per 16 counters of 4 words of 2 halves


def dropout_add_layer_norm(args: LayerNorm, mask_rows: MaskRows) -> Tensor:
    """Differentiable as it stands. Without a seed the masks are those of torch's generator."""
    total = _dropout(args.x, args.dropout_p, args.seed, 0, mask_rows)
    if args.residual is not None:
        total = total + args.residual
    normalized = F.layer_norm(total, args.weight.shape, args.weight, args.bias, args.eps)
    return _dropout(normalized, args.output_dropout_p, args.seed, 1, mask_rows)


def _dropout(x: Tensor, dropout_p: float, seed: Tensor | None, stream: int, mask_rows: MaskRows) -> Tensor:
    if dropout_p == 0:
        return x
    width = x.shape[-1]
    rows = x.numel() // width
    part = mask_rows.rows < mask_rows.of
    if seed is None:
        if not part:
            return F.dropout(x, dropout_p)
        # all rows are drawn: the generator goes on as it does in the larger call
        runs = -(-rows // mask_rows.rows)
        factor = F.dropout(x.new_ones(runs * mask_rows.of, width), dropout_p)
        return x * factor[mask_rows.number(torch.arange(rows, device=x.device))].view(x.shape)
    threshold = min(int(dropout_p * 65536 + 0.5), 65535)
    run = mask_rows.rows if part else max(rows, 1)
    bits = [
        element_bits(seed, stream, min(run, rows - row) * width, width * mask_rows.number(row))
        for row in range(0, max(rows, 1), run)
    ]
    dropped = torch.cat(bits).view(x.shape) < threshold
    return x.masked_fill(dropped, 0) * (65536 / (65536 - threshold))


def element_bits(seed: Tensor, stream: int, count: int, first: int = 0) -> Tensor:
    """int64 [count] in [0, 2^16), of the elements from `first` on: one is dropped where its 16 bits are below p 2^16,
    rounded.

    Those of element i = 128 b + n are half (n / 16) % 2 of word n / 32 of Philox with the counter
    (low and high word of 16 b + n % 16, stream, 0).
    """
    block = first // _BLOCK
    blocks = -(-(first + count) // _BLOCK) - block
    counter = torch.arange(16 * block, 16 * (block + blocks), device=seed.device)
    zero = torch.zeros_like(counter)
    words = torch.stack(philox(seed, counter & 0xFFFFFFFF, counter >> 32, zero + stream, zero))
    halves = torch.stack([words & 0xFFFF, words >> 16], dim=1)  # [words, halves, blocks * lanes]
    return halves.view(4, 2, blocks, 16).permute(2, 0, 1, 3).flatten()[first - _BLOCK * block :][:count]

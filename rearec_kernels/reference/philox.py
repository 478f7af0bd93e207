"""The stream of random words that every backend's dropout reads."""

from __future__ import annotations

import torch
from torch import Tensor


def philox(seed: Tensor, *counter: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four words of Philox4x32-10 (Salmon et al., SC'11) as int64 in [0, 2^32), key = seed; arguments broadcast."""
    low = 0xFFFFFFFF

    def multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
        # 32 x 32 -> 64 bits in int64 without overflow: b in two halves of 16 bits.
        high, rest = a * (b >> 16), a * (b & 0xFFFF)
        carry = (high & 0xFFFF) * 0x10000 + rest
        return ((high >> 16) + (carry >> 32)) & low, carry & low

    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    k0, k1 = seed & low, (seed >> 32) & low
    for _ in range(10):
        high0, low0 = multiply(0xD2511F53, c0)
        high1, low1 = multiply(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return c0, c1, c2, c3


def philox_word(seed: Tensor, slot: Tensor, token: Tensor, head: Tensor, row: Tensor) -> Tensor:
    """The first word for the counter (slot, token, head, row)."""
    return philox(seed, slot, token, head, row)[0]

"""An item table as tiles of bfloat16: packed once, or while a call reads them; and where a pass over tiles pays."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rearec_kernels import native
from rearec_kernels.addresses import matrix_tuple
from rearec_kernels.cpu.memory import empty

DEPTH = 32
_SAMPLED = 1024

# What the op `catalog_tiles` gives: [tiles] for "bf16", [tiles, bounds, center] for "fp32" (csrc's item_tiles.h); the
# first two are None where they are packed as they are read.
Packed = Sequence[Tensor | None]


def pack(weight: Tensor, precision: str) -> list[Tensor]:
    """weight: [N, d], float32 or bfloat16, with dense items."""
    items, width = weight.shape
    block = native.TILES.BLOCK
    blocks, depth = -(-items // block), -(-width // DEPTH)
    packed = [torch.empty((blocks, depth * block * DEPTH), dtype=torch.bfloat16, device="cpu")]
    if precision == "fp32":
        packed += [torch.empty((blocks, 2, block), dtype=torch.float32, device="cpu"), _center(weight)]
    threads = torch.get_num_threads()
    native.TILES.pack_items(catalog_tuple(packed, weight), matrix_tuple(weight), threads, 0)
    return packed


def tiles_of_call(weight: Tensor, prepared: Sequence[Tensor] | None, rows: int, precision: str) -> Packed | None:
    """What a call for so many rows reads by tiles, or None where something else is faster.

    prepared: what `pack` made of the table, if anybody had it do so.
    """
    if prepared:
        return prepared if _is_worth_it(rows, precision, prepared=True) else None
    if native.TILES is None or not is_dense(weight) or not _is_worth_it(rows, precision, prepared=False):
        return None
    return [None] if precision == "bf16" else [None, None, _center(weight)]


def _is_worth_it(rows: int, precision: str, *, prepared: bool) -> bool:
    """Whether a pass over tiles, and packing them if they are not, takes less time than scores of float32 products."""
    if rows <= native.C.MAX_DIRECT_ROWS:  # then reading the table once is all the work, unless it is read as tiles
        return prepared and native.MULTIPLIES_BF16
    if prepared or precision == "bf16":  # where the table would have to be rounded, packing it costs no more
        return True
    # Packing with bounds takes as long as a product with some 32 rows where that is of float32. That it pays where the
    # processor multiplies bfloat16 is assumed, not measured.
    return native.MULTIPLIES_BF16 and rows >= 8 * native.TILES.BLOCK


def is_dense(weight: Tensor) -> bool:
    """Whether kernels can read the table as it is."""
    return weight.dtype in (torch.float32, torch.bfloat16) and weight.shape[1] > 0 and weight.stride(1) == 1


def catalog_tuple(packed: Packed, weight: Tensor) -> tuple[int, ...]:
    addresses = [0 if x is None else x.data_ptr() for x in packed]
    return *addresses, *[0] * (3 - len(addresses)), *weight.shape


class RowTiles:
    """Scratch for the tiles of up to so many rows, and for what their bounds take."""

    def __init__(self, rows: int, width: int) -> None:
        self.padded = -(-rows // native.TILES.BLOCK) * native.TILES.BLOCK
        self._tiles = empty([self.padded * -(-width // DEPTH) * DEPTH], torch.bfloat16)
        self._bounds = torch.empty((4, self.padded), dtype=torch.float32, device="cpu")
        self._is_bounded = torch.empty(self.padded, dtype=torch.bool, device="cpu")

    def as_tuple(self) -> tuple[int, ...]:
        return self._tiles.data_ptr(), self._bounds.data_ptr(), self._is_bounded.data_ptr(), self.padded


def written_since(op: str) -> ValueError:
    return ValueError(f"{op}: the table was written to after prepare_catalog; call refresh() of the prepared catalogue")


def _center(weight: Tensor) -> Tensor:
    """A vector that the items are near to, if to any: bounds hold for every choice, and are the tighter the nearer. The
    median of a sample, which a few wild items do not move."""
    sample = weight[:: -(-weight.shape[0] // _SAMPLED)].float()
    center = sample.nanmedian(0).values
    return center if center.norm() < 1e15 else torch.zeros_like(center)

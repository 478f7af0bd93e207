"""The top-k by tiles of bfloat16: a packed copy of the item table, and scores of bfloat16 numbers or, proven by an
error bound, float32 scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rearec_kernels import native
from rearec_kernels.addresses import matrix_tuple
from rearec_kernels.cpu.chunks import even_chunks, slice_address
from rearec_kernels.cpu.memory import empty

_DEPTH = 32
_ROWS = 512  # per pass over the catalog
_CANDIDATES = 2**21  # kept at a time, over all rows of a thread
_SAMPLED = 1024


def pack(weight: Tensor, precision: str) -> list[Tensor]:
    """What the op `catalog_tiles` gives: [tiles] for "bf16", [tiles, bounds, center] for "fp32" (csrc's item_tiles.h).

    weight: [N, d], float32 or bfloat16, with dense items.
    """
    items, width = weight.shape
    block = native.TILES.BLOCK
    blocks, depth = -(-items // block), -(-width // _DEPTH)
    packed = [torch.empty((blocks, depth * block * _DEPTH), dtype=torch.bfloat16, device="cpu")]
    if precision == "fp32":
        packed += [torch.empty((blocks, 2, block), dtype=torch.float32, device="cpu"), _center(weight)]
    native.TILES.pack_items(_tiles_argument(packed, weight), matrix_tuple(weight), torch.get_num_threads())
    return packed


def is_worth_it(rows: int, k: int, items: int, precision: str) -> bool:
    """Whether candidates are so few that choosing them takes less time than all scores do, and tiles are not slower
    than reading the float32 table once for a few rows."""
    if precision == "fp32" and rows <= native.C.MAX_DIRECT_ROWS and not native.MULTIPLIES_BF16:
        return False
    return 16 * k <= items or k <= 32


def _center(weight: Tensor) -> Tensor:
    """A vector that the items are near to, if to any: bounds hold for every choice, and are the tighter the nearer. The
    median of a sample, which a few wild items do not move."""
    sample = weight[:: -(-weight.shape[0] // _SAMPLED)].float()
    center = sample.nanmedian(0).values
    return center if center.norm() < 1e15 else torch.zeros_like(center)


def _tiles_argument(packed: Sequence[Tensor], weight: Tensor) -> tuple[int, ...]:
    addresses = [x.data_ptr() for x in packed]
    return *addresses, *[0] * (3 - len(addresses)), *weight.shape


def topk(
    h: Tensor,
    weight: Tensor,
    k: int,
    exclusion_of: Callable[[slice], tuple[int, int, int, int]],
    packed: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Scores and items [R, k] as `catalog_topk` has them, of the rows where the third, bool [R], is true; the others
    are not computed: their scores cannot be bounded, or too many items score nearly the same. The fourth counts float32
    scores.

    Raises ValueError where a float32 score shows that the table is not the one that was packed.

    h: float32 [R, d], dense. exclusion_of: what bars items of a part of the rows, as the kernels want it.
    """
    rows, parts = h.shape[0], torch.get_num_threads()
    parts = min(parts, packed[0].shape[0])
    best_scores = torch.full((rows, k), float("-inf"), dtype=torch.float32, device="cpu")
    best_items = torch.full((rows, k), -1, dtype=torch.int64, device="cpu")
    proven = torch.empty(rows, dtype=torch.bool, device="cpu")
    capacity = 3 * k + 32
    chunks = list(even_chunks(rows, min(_ROWS, max(_CANDIDATES // capacity, 1))))
    largest = max((chunk.stop - chunk.start for chunk in chunks), default=1)
    padded = -(-largest // native.TILES.BLOCK) * native.TILES.BLOCK
    depth = -(-h.shape[1] // _DEPTH)
    tiles = empty([padded * depth * _DEPTH], torch.bfloat16)
    row_bounds, is_bounded = (
        torch.empty((4, padded), dtype=torch.float32, device="cpu"),
        torch.empty(padded, dtype=torch.bool, device="cpu"),
    )
    scores, items = empty([2, parts, padded, capacity]), empty([parts, padded, capacity], torch.int64)
    state = torch.empty((2, parts, padded), dtype=torch.int64, device="cpu")
    thresholds = torch.empty((parts, padded), dtype=torch.float32, device="cpu")
    row_tiles = (tiles.data_ptr(), row_bounds.data_ptr(), is_bounded.data_ptr(), padded)
    candidates = (*(x.data_ptr() for x in (scores, items, state, thresholds)), capacity)
    computed = 0
    for chunk in chunks:
        best = (slice_address(best_scores, chunk), slice_address(best_items, chunk), chunk.stop - chunk.start, k)
        scored = native.TILES.topk(
            slice_address(h, chunk), _tiles_argument(packed, weight), matrix_tuple(weight), exclusion_of(chunk),
            row_tiles, candidates, best, slice_address(proven, chunk), parts,
        )  # fmt: skip
        if scored < 0:
            raise ValueError(
                "catalog_topk: the table was written to after prepare_catalog; call refresh() of the prepared catalogue"
            )
        computed += scored
    return best_scores, best_items, proven, computed

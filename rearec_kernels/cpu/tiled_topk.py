"""The top-k by tiles of bfloat16: by scores of bfloat16 numbers or, proven by an error bound, by float32 scores."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rearec_kernels import native
from rearec_kernels.addresses import matrix_tuple
from rearec_kernels.cpu.catalog_tiles import Packed, RowTiles, catalog_tuple, written_since
from rearec_kernels.cpu.chunks import even_chunks, slice_address
from rearec_kernels.cpu.memory import empty

_ROWS = 512  # per pass over the catalog
_CANDIDATES = 2**21  # kept at a time, over all rows of a thread


def keeps_few(k: int, items: int) -> bool:
    """Whether candidates are so few that choosing them takes less time than all scores do."""
    return 16 * k <= items or k <= 32


def topk(
    h: Tensor, weight: Tensor, k: int, exclusion_of: Callable[[slice], tuple[int, int, int, int]], packed: Packed
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Scores and items [R, k] as `catalog_topk` has them, of the rows where the third, bool [R], is true; the others
    are not computed: their scores cannot be bounded, or too many items score nearly the same. The fourth counts float32
    scores.

    Raises ValueError where a float32 score shows that the table is not the one that was packed.

    h: float32 [R, d], dense. exclusion_of: what bars items of a part of the rows, as the kernels want it.
    """
    rows = h.shape[0]
    parts = min(torch.get_num_threads(), -(-weight.shape[0] // native.TILES.BLOCK))
    best_scores = torch.full((rows, k), float("-inf"), dtype=torch.float32, device="cpu")
    best_items = torch.full((rows, k), -1, dtype=torch.int64, device="cpu")
    proven = torch.empty(rows, dtype=torch.bool, device="cpu")
    capacity = 3 * k + 32
    chunks = list(even_chunks(rows, min(_ROWS, max(_CANDIDATES // capacity, 1))))
    row_tiles = RowTiles(max((chunk.stop - chunk.start for chunk in chunks), default=1), h.shape[1])
    padded = row_tiles.padded
    scores, items = empty([2, parts, padded, capacity]), empty([parts, padded, capacity], torch.int64)
    state = torch.empty((2, parts, padded), dtype=torch.int64, device="cpu")
    thresholds = torch.empty((parts, padded), dtype=torch.float32, device="cpu")
    candidates = (*(x.data_ptr() for x in (scores, items, state, thresholds)), capacity)
    computed = 0
    for chunk in chunks:
        best = (slice_address(best_scores, chunk), slice_address(best_items, chunk), chunk.stop - chunk.start, k)
        scored = native.TILES.topk(
            slice_address(h, chunk), catalog_tuple(packed, weight), matrix_tuple(weight), exclusion_of(chunk),
            row_tiles.as_tuple(), candidates, best, slice_address(proven, chunk), parts,
        )  # fmt: skip
        if scored < 0:
            raise written_since("catalog_topk")
        computed += scored
    return best_scores, best_items, proven, computed

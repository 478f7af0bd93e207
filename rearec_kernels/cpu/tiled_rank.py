"""The rank by tiles of bfloat16: by scores of bfloat16 numbers or, where an error bound leaves an item undecided, by
float32 scores."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rearec_kernels import native
from rearec_kernels.addresses import matrix_tuple
from rearec_kernels.cpu.catalog_tiles import Packed, RowTiles, catalog_tuple, written_since
from rearec_kernels.cpu.chunks import even_chunks, slice_address

_ROWS = 2048  # per pass over the catalog


def half_counts(
    h: Tensor,
    weight: Tensor,
    target: Tensor,
    bonus: Tensor | None,
    exclusion_of: Callable[[slice], tuple[int, int, int, int]],
    packed: Packed,
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Twice the rank, int64 [R], and the targets' scores with their bonus, float32 [R], of the rows where the third,
    bool [R], is true; the others are not computed: their scores cannot be bounded, or too many items score nearly as
    the target. The fourth counts float32 scores.

    Raises ValueError where a float32 score shows that the table is not the one that was packed.

    h: float32 [R, d], dense. target: int64 [R]. bonus: float32 [R], added to the targets' scores. exclusion_of: what
        bars items of a part of the rows, as the kernels want it.
    """
    rows = h.shape[0]
    parts = min(torch.get_num_threads(), -(-weight.shape[0] // native.TILES.BLOCK))
    counts, proven = (
        torch.empty(rows, dtype=torch.int64, device="cpu"),
        torch.empty(rows, dtype=torch.bool, device="cpu"),
    )
    target_scores = torch.empty(rows, dtype=torch.float32, device="cpu")
    chunks = list(even_chunks(rows, _ROWS))
    row_tiles = RowTiles(max((chunk.stop - chunk.start for chunk in chunks), default=1), h.shape[1])
    scores = torch.empty((1 + parts, row_tiles.padded), dtype=torch.float32, device="cpu")
    progress = torch.empty((3, parts, row_tiles.padded), dtype=torch.int64, device="cpu")
    computed = 0
    for chunk in chunks:
        scored = native.TILES.rank(
            slice_address(h, chunk), chunk.stop - chunk.start, catalog_tuple(packed, weight), matrix_tuple(weight),
            slice_address(target, chunk), 0 if bonus is None else slice_address(bonus, chunk), exclusion_of(chunk),
            row_tiles.as_tuple(), (scores.data_ptr(), progress.data_ptr()),
            *(slice_address(x, chunk) for x in (target_scores, counts, proven)), parts,
        )  # fmt: skip
        if scored < 0:
            raise written_since("catalog_rank")
        computed += scored
    return counts, target_scores, proven, computed

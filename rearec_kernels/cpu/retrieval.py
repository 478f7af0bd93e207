"""Native retrieval, on one of three roads: for a few rows, scores in one pass over the table (csrc/cpu/retrieval.cpp);
by tiles of bfloat16 (csrc/cpu/tiles) where they pay; else scores of one block at a time by torch."""

from __future__ import annotations

import torch
from torch import Tensor

from rearec_kernels import native
from rearec_kernels.cpu import catalog_tiles as by_tiles
from rearec_kernels.cpu import tiled_rank, tiled_topk
from rearec_kernels.cpu.chunks import even_chunks, part_of, rounded, slice_address
from rearec_kernels.cpu.memory import empty
from rearec_kernels.ops.arguments import CatalogTiles, Rank, TopK
from rearec_kernels.precision import ieee_products

_TOPK_SCORES = 2**20  # at a time: they stay in the cache
_TOPK_ROWS = 512
_RANK_SCORES = 2**24
_RANK_ROWS = (64, 192)


class _Scores:
    """Scores of a chunk of rows against blocks of the table, in one scratch that all blocks share.

    All products of a chunk have the same shape, the last one overlaps the one before by a few items: a score then does
    not depend on where in the catalog its item is.
    """

    def __init__(self, weight: Tensor, largest_rows: int, columns: int, precision: str) -> None:
        self.weight, self.precision = weight, precision
        self.count = -(-weight.shape[0] // columns)
        self.columns = -(-weight.shape[0] // self.count)
        self.scratch = empty([largest_rows * self.columns])
        shape, is_float32 = (self.columns, weight.shape[1]), weight.dtype == torch.float32
        self.converted = None if is_float32 and precision == "fp32" else empty(shape)
        self.near = empty(shape, torch.bfloat16) if weight.dtype != torch.bfloat16 and precision == "bf16" else None

    def block(self, rows: Tensor, index: int) -> tuple[Tensor, int]:
        """The scores of the items [index * columns, (index + 1) * columns), and the first of them."""
        first = index * self.columns
        start = min(first, self.weight.shape[0] - self.columns)
        table = self.weight[start : start + self.columns]
        if self.converted is not None:
            table = self.converted.copy_(table if self.near is None else self.near.copy_(table))
        scores = self.scratch[: rows.shape[0] * self.columns].view(rows.shape[0], self.columns)
        torch.mm(rows, table.t(), out=scores)
        return scores[:, first - start :], first


def _score_arguments(scores: Tensor, first: int) -> tuple[int, ...]:
    return scores.data_ptr(), *scores.shape, scores.stride(0), first, torch.get_num_threads()


class _Exclusion:
    """What `exclude` bars, ascending and without repetition as the kernels want it."""

    def __init__(self, args: TopK | Rank) -> None:
        offsets, items = args.exclude_offsets, args.exclude_items
        rows, catalog = args.hidden.shape[0], args.weight.shape[0]
        self.begin = self.end = None
        if items is None:
            self.items = torch.empty(0, dtype=torch.int64, device="cpu")
        elif offsets is None:
            self.items = items.long().unique()
        else:
            row = torch.repeat_interleave(offsets.long().diff())
            keys = (row * catalog + items).unique()
            self.items = keys % catalog
            bounds = torch.searchsorted(keys, torch.arange(rows + 1, device="cpu") * catalog)
            self.begin, self.end = bounds[:-1].contiguous(), bounds[1:].contiguous()

    def reorder(self, order: Tensor) -> None:
        if self.begin is not None and self.end is not None:
            self.begin, self.end = self.begin[order], self.end[order]

    def of_rows(self, rows: slice) -> tuple[int, int, int, int]:
        bounds = (0 if x is None else slice_address(x, rows) for x in (self.begin, self.end))
        return *bounds, self.items.data_ptr(), self.items.shape[0]  # type: ignore[return-value]


def catalog_tiles(args: CatalogTiles) -> list[Tensor]:
    return by_tiles.pack(args.weight, args.precision)


def _is_for_few(rows: int, weight: Tensor) -> bool:
    return rows <= native.C.MAX_DIRECT_ROWS and by_tiles.is_dense(weight)


def _table_tuple(weight: Tensor, precision: str) -> tuple[int | bool, ...]:
    """The table of the kernels for a few rows."""
    is_bfloat16 = weight.dtype == torch.bfloat16
    return weight.data_ptr(), is_bfloat16, precision == "bf16", *weight.shape, weight.stride(0)


def catalog_topk(args: TopK) -> tuple[Tensor, Tensor]:
    weight, k, precision = args.weight, args.k, args.precision
    rows, catalog = args.hidden.shape[0], weight.shape[0]
    h = rounded(args.hidden, precision).contiguous()
    exclusion = _Exclusion(args)
    if tiled_topk.keeps_few(k, catalog):
        packed = by_tiles.tiles_of_call(weight, args.tiles, rows, precision)
        if packed is not None:
            return _topk_by_tiles(h, args, exclusion, packed)
    if _is_for_few(rows, weight):
        return _topk_direct(h, args, exclusion, slice(0, rows))
    best_scores = torch.full((rows, k), float("-inf"), dtype=torch.float32, device="cpu")
    best_items = torch.full((rows, k), -1, dtype=torch.int64, device="cpu")
    chunks = list(even_chunks(rows, _TOPK_ROWS))
    largest = max((chunk.stop - chunk.start for chunk in chunks), default=1)
    scores = _Scores(weight, largest, min(max(_TOPK_SCORES // largest, 1), part_of(catalog, largest)), precision)
    with ieee_products(args.hidden.device):
        for chunk in chunks:
            best = (slice_address(best_scores, chunk), slice_address(best_items, chunk), chunk.stop - chunk.start, k)
            for index in range(scores.count):
                native.C.topk(_score_arguments(*scores.block(h[chunk], index)), best, exclusion.of_rows(chunk))
            native.C.topk_sort(best)
    return best_scores, best_items


def _topk_by_tiles(h: Tensor, args: TopK, exclusion: _Exclusion, packed: by_tiles.Packed) -> tuple[Tensor, Tensor]:
    scores, items, proven, _ = tiled_topk.topk(h, args.weight, args.k, exclusion.of_rows, packed)
    if not proven.all():
        # The rest by the same float32 scores of the whole table, whose bits are those of the other rows.
        rest = (~proven).nonzero().squeeze(1)
        exclusion.reorder(rest)
        h = h[rest]
        for chunk in even_chunks(rest.shape[0], native.C.MAX_DIRECT_ROWS):
            scores[rest[chunk]], items[rest[chunk]] = _topk_direct(h, args, exclusion, chunk)
    return scores, items


def _topk_direct(h: Tensor, args: TopK, exclusion: _Exclusion, chunk: slice) -> tuple[Tensor, Tensor]:
    """A few rows: reading the table is all the work, so scores and heaps in one pass over it."""
    rows, parts, k = chunk.stop - chunk.start, torch.get_num_threads(), args.k
    best_scores = torch.full((parts, rows, k), float("-inf"), dtype=torch.float32, device="cpu")
    best_items = torch.full((parts, rows, k), -1, dtype=torch.int64, device="cpu")
    best = (best_scores.data_ptr(), best_items.data_ptr(), rows, k)
    if rows > 0:
        table = _table_tuple(args.weight, args.precision)
        native.C.topk_direct(slice_address(h, chunk), table, best, parts, exclusion.of_rows(chunk))
        native.C.topk_sort(best)
    return best_scores[0].clone(), best_items[0].clone()


def catalog_rank(args: Rank) -> tuple[Tensor, Tensor]:
    rows, weight = args.hidden.shape[0], args.weight
    h, target = rounded(args.hidden, args.precision).contiguous(), args.target.long().contiguous()
    if args.target_score is not None:
        target = torch.full_like(target, -1)
    bonus = None if args.target_bonus is None else args.target_bonus.float().contiguous()
    exclusion = _Exclusion(args)
    packed = by_tiles.tiles_of_call(weight, args.tiles, rows, args.precision)
    if args.target_score is not None:
        half_counts, target_scores = _rank_by_blocks(h, args, target, bonus, exclusion)
    elif packed is not None:
        half_counts, target_scores = _rank_by_tiles(h, args, target, bonus, exclusion, packed)
    elif _is_for_few(rows, weight):
        half_counts, target_scores = _rank_direct(h, args, target, bonus, exclusion, slice(0, rows))
    else:
        half_counts, target_scores = _rank_by_blocks(h, args, target, bonus, exclusion)
    ranks = (half_counts.double() / 2).float().masked_fill_(target_scores.isnan(), float("nan"))
    return ranks, target_scores


def _rank_by_tiles(
    h: Tensor, args: Rank, target: Tensor, bonus: Tensor | None, exclusion: _Exclusion, packed: by_tiles.Packed
) -> tuple[Tensor, Tensor]:
    half_counts, target_scores, proven, _ = tiled_rank.half_counts(
        h, args.weight, target, bonus, exclusion.of_rows, packed
    )
    if not proven.all():
        # The rest by the same float32 scores of the whole table.
        rest = (~proven).nonzero().squeeze(1)
        exclusion.reorder(rest)
        h, target, bonus = h[rest], target[rest], None if bonus is None else bonus[rest]
        for chunk in even_chunks(rest.shape[0], native.C.MAX_DIRECT_ROWS):
            direct = _rank_direct(h, args, target, bonus, exclusion, chunk)
            half_counts[rest[chunk]], target_scores[rest[chunk]] = direct
    return half_counts, target_scores


def _rank_direct(
    h: Tensor, args: Rank, target: Tensor, bonus: Tensor | None, exclusion: _Exclusion, chunk: slice
) -> tuple[Tensor, Tensor]:
    rows, parts = chunk.stop - chunk.start, torch.get_num_threads()
    half_counts = torch.empty((parts, rows), dtype=torch.int64, device="cpu")
    target_scores = torch.empty(rows, dtype=torch.float32, device="cpu")
    if rows > 0:
        native.C.rank_direct(
            slice_address(h, chunk), _table_tuple(args.weight, args.precision), rows, slice_address(target, chunk),
            0 if bonus is None else slice_address(bonus, chunk), target_scores.data_ptr(), half_counts.data_ptr(),
            parts, exclusion.of_rows(chunk),
        )  # fmt: skip
    return half_counts[0], target_scores


def _rank_by_blocks(
    h: Tensor, args: Rank, target: Tensor, bonus: Tensor | None, exclusion: _Exclusion
) -> tuple[Tensor, Tensor]:
    rows, catalog = h.shape[0], args.weight.shape[0]
    # Rows with targets in the same block together: a chunk's target scores come first, from the very blocks that are
    # then counted, and a chunk of rows whose targets share one block needs no product twice.
    sorted_target, order = target.sort()
    h = h[order]
    exclusion.reorder(order)
    half_counts = torch.zeros(rows, dtype=torch.int64, device="cpu")
    target_scores = torch.empty(rows, dtype=torch.float32, device="cpu")
    if args.target_score is not None:
        target_scores.copy_(args.target_score[order])
    bonus = None if bonus is None else bonus[order]
    largest = min(max(_RANK_SCORES // catalog, _RANK_ROWS[0]), _RANK_ROWS[1], part_of(rows, catalog))
    scores = _Scores(args.weight, largest, _RANK_SCORES // largest, args.precision)
    with ieee_products(args.hidden.device):
        for chunk in even_chunks(rows, largest):
            addresses = [slice_address(x, chunk) for x in (sorted_target, target_scores, half_counts)]
            item = sorted_target[chunk]
            block_of_row = item // scores.columns
            target_blocks = block_of_row.unique().tolist() if args.target_score is None else []
            rest = [index for index in range(scores.count) if index not in target_blocks[-1:]]
            for position, index in enumerate(target_blocks + rest):
                block, first = scores.block(h[chunk], index)
                if position < len(target_blocks):
                    here = block_of_row == index
                    target_scores[chunk][here] = block[here, item[here] - first]
                    if bonus is not None:
                        target_scores[chunk][here] += bonus[chunk][here]
                if position >= len(target_blocks) - 1:
                    native.C.rank(_score_arguments(block, first), *addresses, exclusion.of_rows(chunk))
    back = order.argsort()
    return half_counts[back], target_scores[back]

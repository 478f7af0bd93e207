"""Top-k and rank: tiles of rows against parts of the items, so that no score is ever written to memory."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from rearec_kernels.ops.arguments import Rank, TopK
from rearec_kernels.triton import configs
from rearec_kernels.triton.launch import Config, architecture, blocks, launch, parts
from rearec_kernels.triton.products import PRODUCTS, rounded
from rearec_kernels.triton.retrieval_kernels import best_of_part, count_above, merge_best
from rearec_kernels.triton.tuning import magnitude, run_best

_MOST_MERGED = 4096  # candidates of a row that one block looks through
_MOST_PARTS = 64
_SAMPLED = 16  # a part of the catalog in so many bounds the scores of the others,
_LEAST_SAMPLED = 2**13  # if it is not smaller than this


class _Exclusion:
    """What `exclude` bars: of all rows as `mask` bool [N], or of each row as `items` between `offsets` [R + 1], in the
    ascending order in which the kernels walk through them."""

    def __init__(self, args: TopK | Rank) -> None:
        offsets, items, catalog = args.exclude_offsets, args.exclude_items, args.weight.shape[0]
        device = args.hidden.device
        self.mask = self.items = torch.empty(0, dtype=torch.int64, device=device)
        self.offsets = self.items
        self.for_all = items is not None and offsets is None
        self.per_row = items is not None and offsets is not None
        if items is not None and offsets is None:
            self.mask = torch.zeros(catalog, dtype=torch.bool, device=device).index_fill_(0, items.long(), True)
        elif items is not None and offsets is not None:
            self.offsets = offsets.long()
            # Sorted by row and, within it, by item; repetitions do no harm.
            position = torch.arange(items.shape[0], device=device)
            row = torch.searchsorted(self.offsets, position, right=True) - 1
            keys = (row * catalog + items).sort().values
            self.items = keys % catalog

    def arguments(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.mask, self.offsets, self.items

    def constants(self) -> dict[str, bool]:
        return {"BAR_FOR_ALL": self.for_all, "BAR_PER_ROW": self.per_row}


class _Scan:
    """Rows, table and exclusion of one call, and how the items are split."""

    def __init__(self, args: TopK | Rank) -> None:
        self.rows, self.table = (rounded(x, args.precision) for x in (args.hidden, args.weight))
        self.row_count, self.width = args.hidden.shape
        self.item_count, self.device = args.weight.shape[0], args.hidden.device
        self.exclusion = _Exclusion(args)
        self.arch = architecture(self.device)
        self.constants = {"WIDTH": self.width, "PRECISION": PRODUCTS[args.precision], **self.exclusion.constants()}

    @property
    def kind(self) -> tuple[object, ...]:
        """What the choice of a config depends on."""
        return *self.constants.values(), magnitude(self.row_count), magnitude(self.item_count)

    def split(self, chosen: Config, items: int) -> tuple[int, int, int]:
        """Row tiles, parts, and the items of a part, of the first `items` of the catalog."""
        row_tiles, item_tiles = blocks(self.row_count, chosen["ROWS"]), blocks(items, chosen["ITEMS"])
        per_part = blocks(item_tiles, parts(row_tiles, item_tiles, self.device, _MOST_PARTS)) * chosen["ITEMS"]
        return row_tiles, blocks(items, per_part), per_part


def catalog_topk(args: TopK) -> tuple[Tensor, Tensor]:
    scan, k = _Scan(args), args.k
    kept = min(k, scan.item_count)
    floor = torch.full((scan.row_count,), float("-inf"), dtype=torch.float32, device=scan.device)
    sampled = scan.item_count // _SAMPLED
    if sampled >= max(_LEAST_SAMPLED, kept):
        # What is best in a part of the catalog bounds what is best in all of it, and few items pass the bound. To
        # replace the worst of those kept, again and again, takes longer than the products.
        scores, _ = _best(scan, kept, sampled, floor)
        floor = torch.nextafter(scores[:, -1], floor)
    scores, found = _best(scan, kept, scan.item_count, floor)
    if kept == k:
        return scores, found
    missing = (0, k - kept)
    pad = torch.nn.functional.pad
    return pad(scores, missing, value=float("-inf")), pad(found, missing, value=-1)


def _best(scan: _Scan, k: int, items: int, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and items [rows, k] of the first `items` of the catalog; nothing at or below the row's floor."""
    places = triton.next_power_of_2(max(k, 2))

    def run(chosen: Config) -> Tensor:
        row_tiles, count, per_part = scan.split(chosen, items)
        best = torch.empty((scan.row_count, count, places), dtype=torch.int64, device=scan.device)
        launch(
            best_of_part, (row_tiles, count), chosen,
            scan.rows, scan.table, *scan.exclusion.arguments(), floor, best, scan.row_count, items, per_part,
            **scan.constants, PLACES=places,
        )  # fmt: skip
        return best

    candidates = configs.catalog_topk(scan.arch, scan.rows.dtype, scan.width, places)
    kind = (*scan.kind, places)  # not how many items: scores of the sample have to be those of the whole
    return _merge(run_best("best_of_part", kind, candidates, scan.device, run), k, places)


def _merge(best: Tensor, k: int, places: int) -> tuple[Tensor, Tensor]:
    """Scores and items [rows, k] of the candidates, as many parts at a time as one block takes."""
    rows, count, _ = best.shape
    scores = torch.empty((rows, k), dtype=torch.float32, device=best.device)
    items = torch.empty((rows, k), dtype=torch.int64, device=best.device)
    while True:
        per_group = min(count, max(2, _MOST_MERGED // places))
        groups = blocks(count, per_group)
        size = triton.next_power_of_2(per_group * places)
        last = groups == 1
        merged = best if last else torch.empty((rows, groups, places), dtype=torch.int64, device=best.device)
        chosen = configs.merge_best(size)
        launch(
            merge_best, (blocks(rows, chosen["ROWS"]), groups), chosen,
            best, merged, scores, items, rows, count, per_group, k, LAST=last, PLACES=places, CANDIDATES=size,
        )  # fmt: skip
        if last:
            return scores, items
        best, count = merged, groups


def catalog_rank(args: Rank) -> tuple[Tensor, Tensor]:
    scan = _Scan(args)
    target, score = args.target.contiguous(), args.target_bonus  # what the kernel adds to the target's score, or that
    if args.target_score is not None:
        target, score = torch.full_like(target, -1), args.target_score
    added = torch.zeros(scan.row_count, dtype=torch.float32, device=scan.device)
    if score is not None:
        added += score

    def run(chosen: Config) -> tuple[Tensor, Tensor]:
        row_tiles, count, per_part = scan.split(chosen, scan.item_count)
        half_counts = torch.empty((count, scan.row_count), dtype=torch.int32, device=scan.device)
        target_score = torch.empty(scan.row_count, dtype=torch.float32, device=scan.device)
        launch(
            count_above, (row_tiles, count), chosen,
            scan.rows, scan.table, target, added, *scan.exclusion.arguments(), half_counts, target_score,
            scan.row_count, scan.item_count, per_part, **scan.constants, GIVEN=args.target_score is not None,
        )  # fmt: skip
        return half_counts, target_score

    candidates = configs.catalog_rank(scan.arch, scan.rows.dtype, scan.width)
    half_counts, target_score = run_best("count_above", scan.kind, candidates, scan.device, run)
    ranks = half_counts.sum(0).double() / 2
    return ranks.float().masked_fill_(target_score.isnan(), float("nan")), target_score

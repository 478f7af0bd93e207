"""Kernels of retrieval: the best items of each row, and how many items score above a target.

A score is the same number wherever it is computed: always one row of the same product of tiles.
"""

# Triton's language has no types to check.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from rearec_kernels.triton.tile_kernels import NOWHERE, held_product, hold, load_tile, product

# A candidate as one number: its score in an order-preserving form above, then what ranks lower items higher. Candidates
# are above EMPTY + MOST_PLACES, and the places of a list start with a number each below that: no two are ever equal.
EMPTY: tl.constexpr = tl.constexpr(-(2**63))
LOW_BITS: tl.constexpr = tl.constexpr(0xFFFFFFFF)


@triton.jit
def _candidates(scores, item):
    """int64 of scores [rows, items]; the items are below 2^31."""
    bits = (scores + 0.0).to(tl.int32, bitcast=True)  # -0 becomes 0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(tl.int64) << 32) | (-item.to(tl.int64) + LOW_BITS)[None, :]


@triton.jit
def _score_of(candidate):
    ordered = (candidate >> 32).to(tl.int32)
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _keep_best(best, candidates):
    """best [rows, places] with the candidates [rows, items] that are better than its worst."""
    worst = tl.min(best, 1)
    found = tl.max(candidates, 1)
    while tl.max((found > worst).to(tl.int32), 0) > 0:
        better = found > worst
        best = tl.where(better[:, None] & (best == worst[:, None]), found[:, None], best)
        candidates = tl.where(candidates == found[:, None], EMPTY, candidates)
        worst = tl.min(best, 1)
        found = tl.max(candidates, 1)
    return best


@triton.jit
def _allowed_items(mask_ptr, item, inside, BAR_FOR_ALL: tl.constexpr):
    """Which of the items are not barred for all rows."""
    if BAR_FOR_ALL:
        return inside & (tl.load(mask_ptr + item, mask=inside, other=1) == 0)
    else:
        return inside


@triton.jit
def _first_barred(offsets_ptr, items_ptr, row, inside, first_item):
    """Where in `items` each row's items from `first_item` on begin, and where they end: by bisection."""
    low = tl.load(offsets_ptr + row, mask=inside, other=0)
    end = tl.load(offsets_ptr + row + 1, mask=inside, other=0)
    high = end
    while tl.max(high - low, 0) > 0:
        middle = (low + high) // 2
        item = tl.load(items_ptr + middle, mask=low < high, other=0)
        before = (low < high) & (item < first_item)
        high = tl.where(before, high, middle)
        low = tl.where(before, middle + 1, low)
    return low, end


@triton.jit
def _bar_items(scores, item, position, end, items_ptr, end_item, barred):
    """Scores [rows, items] with the rows' barred items up to `end_item` as `barred`, and how far each row now is."""
    next_item = tl.load(items_ptr + position, mask=position < end, other=end_item)
    while tl.min(next_item, 0) < end_item:
        scores = tl.where(item[None, :] == next_item[:, None], barred, scores)
        position += (next_item < end_item).to(tl.int64)
        next_item = tl.load(items_ptr + position, mask=position < end, other=end_item)
    return scores, position


@triton.jit
def best_of_part(
    rows_ptr, table_ptr, mask_ptr, offsets_ptr, barred_ptr, floor_ptr, best_ptr,
    row_count, item_count, items_per_part,
    WIDTH: tl.constexpr, BAR_FOR_ALL: tl.constexpr, BAR_PER_ROW: tl.constexpr, PRECISION: tl.constexpr,
    PLACES: tl.constexpr, ROWS: tl.constexpr, ITEMS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """The PLACES best candidates above the row's floor of one tile of rows in one part of the items, in no order.

    Grid: row tiles, parts; neighbours in the grid read the same items. Output int64 [rows, parts, PLACES].
    """
    first_row = tl.program_id(0) * ROWS
    part = tl.program_id(1)
    row = first_row + tl.arange(0, ROWS)
    inside = row < row_count
    rows = hold(rows_ptr, WIDTH, first_row, inside, WIDTH, DEPTH)
    first_item = part * items_per_part
    end_item = tl.minimum(first_item + items_per_part, item_count)
    if BAR_PER_ROW:
        position, end = _first_barred(offsets_ptr, barred_ptr, row, inside, first_item)
    place = tl.arange(0, PLACES)
    best = tl.zeros((ROWS, PLACES), tl.int64) + (place.to(tl.int64) + (EMPTY + 1))[None, :]
    floor = tl.load(floor_ptr + row, mask=inside, other=NOWHERE)
    worst = floor
    for item_tile in tl.range(first_item, end_item, ITEMS):
        item = item_tile + tl.arange(0, ITEMS)
        item_kept = item < end_item
        scores, _ = held_product(
            rows, rows_ptr, WIDTH, first_row, inside, table_ptr, WIDTH, item_tile, item_kept, WIDTH, DEPTH, PRECISION
        )
        kept = _allowed_items(mask_ptr, item, item_kept, BAR_FOR_ALL)
        if BAR_PER_ROW:
            scores, position = _bar_items(
                scores, item, position, end, barred_ptr, tl.minimum(item_tile + ITEMS, end_item), NOWHERE
            )
        # NaN is below everything. An item as good as the worst that is kept comes after it, and ranks lower.
        promising = inside[:, None] & kept[None, :] & (scores > worst[:, None])
        if tl.max(tl.max(promising.to(tl.int32), 1), 0) > 0:
            best = _keep_best(best, tl.where(promising, _candidates(scores, item), EMPTY))
            lowest = tl.min(best, 1)
            worst = tl.where(lowest > EMPTY + PLACES, _score_of(lowest), floor)
    start = (row.to(tl.int64) * tl.num_programs(1) + part) * PLACES
    tl.store(best_ptr + start[:, None] + place[None, :], best, mask=inside[:, None])


@triton.jit
def merge_best(
    parts_ptr, best_ptr, scores_ptr, items_ptr, row_count, parts, parts_per_group, k,
    LAST: tl.constexpr, PLACES: tl.constexpr, CANDIDATES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The best of a group of parts of each row, best first: again as PLACES candidates or, the LAST time, as scores and
    items [rows, k].

    Grid: row tiles, groups. CANDIDATES holds PLACES for each part of a group.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < row_count
    row = row.to(tl.int64)
    group = tl.program_id(1)
    entry = tl.arange(0, CANDIDATES)
    there = (entry < parts_per_group * PLACES) & (group * parts_per_group + entry // PLACES < parts)
    start = (row * parts + group * parts_per_group) * PLACES
    candidates = tl.load(
        parts_ptr + start[:, None] + entry[None, :], mask=inside[:, None] & there[None, :], other=EMPTY
    )
    for place in tl.range(0, k if LAST else PLACES):
        best = tl.max(candidates, 1)
        candidates = tl.where(candidates == best[:, None], EMPTY, candidates)
        if LAST:
            found = best > EMPTY + PLACES
            tl.store(scores_ptr + row * k + place, tl.where(found, _score_of(best), NOWHERE), mask=inside)
            tl.store(items_ptr + row * k + place, tl.where(found, -(best & LOW_BITS) + LOW_BITS, -1), mask=inside)
        else:
            # Places that stay empty keep numbers of their own: no two are equal.
            best = tl.where(best > EMPTY + PLACES, best, EMPTY + 1 + place)
            tl.store(best_ptr + (row * tl.num_programs(1) + group) * PLACES + place, best, mask=inside)


@triton.jit
def count_above(
    rows_ptr, table_ptr, target_ptr, bonus_ptr, mask_ptr, offsets_ptr, barred_ptr, half_counts_ptr, target_score_ptr,
    row_count, item_count, items_per_part,
    WIDTH: tl.constexpr, BAR_FOR_ALL: tl.constexpr, BAR_PER_ROW: tl.constexpr, PRECISION: tl.constexpr,
    GIVEN: tl.constexpr, ROWS: tl.constexpr, ITEMS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """In one part of the items, for one tile of rows: twice the number of items that score above the row's target, and
    once that of the others that score the same, with the row's bonus added to its target's score; or with that bonus
    alone, where it is the score and GIVEN.

    Grid: row tiles, parts. Outputs int32 [parts, rows], and the targets' scores [rows].
    """
    first_row = tl.program_id(0) * ROWS
    part = tl.program_id(1)
    row = first_row + tl.arange(0, ROWS)
    inside = row < row_count
    target = tl.load(target_ptr + row, mask=inside, other=0).to(tl.int32)
    rows = hold(rows_ptr, WIDTH, first_row, inside, WIDTH, DEPTH)

    # The targets' scores, by the very product of tiles that the others come from: targets take the place of items.
    own_score = tl.zeros((ROWS,), tl.float32)
    slot = tl.arange(0, ITEMS)
    for first_slot in tl.range(0, 0 if GIVEN else ROWS, ITEMS):
        slot_row = first_row + first_slot + slot
        slot_kept = (first_slot + slot < ROWS) & (slot_row < row_count)
        slot_target = tl.load(target_ptr + slot_row, mask=slot_kept, other=0)
        scores = _gathered_product(
            rows, rows_ptr, first_row, inside, table_ptr, slot_target, slot_kept, WIDTH, DEPTH, PRECISION
        )
        own_score += tl.sum(tl.where(row[:, None] == slot_row[None, :], scores, 0.0), 1)
    own_score += tl.load(bonus_ptr + row, mask=inside, other=0.0)

    first_item = part * items_per_part
    end_item = tl.minimum(first_item + items_per_part, item_count)
    if BAR_PER_ROW:
        position, end = _first_barred(offsets_ptr, barred_ptr, row, inside, first_item)
    half_counts = tl.zeros((ROWS,), tl.int32)
    for item_tile in tl.range(first_item, end_item, ITEMS):
        item = item_tile + tl.arange(0, ITEMS)
        item_kept = item < end_item
        scores, _ = held_product(
            rows, rows_ptr, WIDTH, first_row, inside, table_ptr, WIDTH, item_tile, item_kept, WIDTH, DEPTH, PRECISION
        )
        counted = (scores > own_score[:, None]).to(tl.int32) + (scores >= own_score[:, None]).to(tl.int32)
        kept = _allowed_items(mask_ptr, item, item_kept, BAR_FOR_ALL)
        counted = tl.where(kept[None, :] & (item[None, :] != target[:, None]), counted, 0)
        if BAR_PER_ROW:
            counted, position = _bar_items(
                counted, item, position, end, barred_ptr, tl.minimum(item_tile + ITEMS, end_item), 0
            )
        half_counts += tl.sum(counted, 1)
    tl.store(half_counts_ptr + part.to(tl.int64) * row_count + row, half_counts, mask=inside)
    if part == 0:
        tl.store(target_score_ptr + row, own_score, mask=inside)


@triton.jit
def _gathered_product(
    held, rows_ptr, first_row, inside, table_ptr, item, item_kept,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`held_product` with items from anywhere in the table."""
    total = tl.zeros((inside.shape[0], item.shape[0]), tl.float32)
    for column in tl.range(0, WIDTH, DEPTH):
        columns = column + tl.arange(0, DEPTH)
        if DEPTH >= WIDTH:
            rows = held
        else:
            rows = load_tile(rows_ptr, WIDTH, first_row, inside, columns, WIDTH)
        entry = table_ptr + item.to(tl.int64)[:, None] * WIDTH + columns[None, :]
        items = tl.load(entry, mask=item_kept[:, None] & (columns < WIDTH)[None, :], other=0.0)
        total = product(rows, tl.trans(items), total, PRECISION)
    return total

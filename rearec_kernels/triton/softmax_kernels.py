"""Kernels of a softmax over the rows of a table: statistics, mean item, and the gradient of the table.

Row r of `rows` has the logits rows[r] . table[n] * inverse_temperature, one of which, n = its target, is its own. That
is the cross-entropy over a catalog, whose T states per target are rows of their own; and, with the other run of a
reasoning step as table and entry first_entry + r as row r's target, the contrastive loss (CONTRASTIVE), one step per
`batch`.
Logits are in the units of the product, not yet over the temperature, until they become exponents.
"""

# Triton's language has no types to check.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from rearec_kernels.triton.tile_kernels import NOWHERE, accumulate, held_product, hold, load_tile, power, store_tile


@triton.jit
def _targets(target_ptr, row, kept, ignore_index, first_entry, STATES: tl.constexpr, CONTRASTIVE: tl.constexpr):
    """Each row's target, -1 for none, and whether the row counts."""
    if CONTRASTIVE:
        return row + first_entry, kept
    else:
        target = tl.load(target_ptr + row // STATES, mask=kept, other=ignore_index)
        return target.to(tl.int32), kept & (target != ignore_index)


@triton.jit
def _same_group(group_ptr, own, own_kept, other, other_kept):
    """bool [own, other]: of two sets of entries, others in the group of one, which are no negatives where it is own."""
    own_group = tl.load(group_ptr + own, mask=own_kept, other=0)
    other_group = tl.load(group_ptr + other, mask=other_kept, other=0)
    return (own_group[:, None] == other_group[None, :]) & (own[:, None] != other[None, :])


@triton.jit
def softmax_statistics(
    rows_ptr, table_ptr, target_ptr, group_ptr, inverse_temperature_ptr,
    largest_ptr, total_ptr, target_logit_ptr, mean_ptr,
    row_count, item_count, items_per_split, ignore_index, first_entry, row_stride, table_stride, batch_stride,
    WIDTH: tl.constexpr, STATES: tl.constexpr, CONTRASTIVE: tl.constexpr, GROUPED: tl.constexpr, MEAN: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr, ITEMS: tl.constexpr, DEPTH: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One part of the items, for one tile of rows: the largest logit, the sum of exponentials relative to it, the
    target's logit (0 if it is in another part) and, with MEAN, the sum of the other items weighted by the exponentials.

    Grid: row tiles x parts, batches, tiles of COLUMNS. Outputs [parts, batches, rows] and [parts, batches, rows,
    WIDTH].
    """
    row_tiles = tl.cdiv(row_count, ROWS)
    first_row = tl.program_id(0) % row_tiles * ROWS
    part = tl.program_id(0) // row_tiles
    batch = tl.program_id(1)
    out_columns = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    rows_ptr += batch * batch_stride
    table_ptr += batch * batch_stride

    row = first_row + tl.arange(0, ROWS)
    inside = row < row_count
    target, kept = _targets(target_ptr, row, inside, ignore_index, first_entry, STATES, CONTRASTIVE)
    scale = tl.load(inverse_temperature_ptr + row % STATES)
    states = hold(rows_ptr, row_stride, first_row, kept, WIDTH, DEPTH)

    largest = tl.full((ROWS,), NOWHERE, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    target_logit = tl.zeros((ROWS,), tl.float32)
    if MEAN:
        mean = tl.zeros((ROWS, COLUMNS), tl.float32)
    first_item = part * items_per_split
    end_item = tl.minimum(first_item + items_per_split, item_count)
    for item_tile in tl.range(first_item, end_item, ITEMS):
        item = item_tile + tl.arange(0, ITEMS)
        item_kept = item < end_item
        z, table = held_product(
            states, rows_ptr, row_stride, first_row, kept, table_ptr, table_stride, item_tile, item_kept,
            WIDTH, DEPTH, PRECISION,
        )  # fmt: skip
        z = tl.where(item_kept[None, :], z, NOWHERE)
        if GROUPED:
            z = tl.where(_same_group(group_ptr, target, inside, item, item_kept), NOWHERE, z)
        own = item[None, :] == target[:, None]
        target_logit += tl.sum(tl.where(own, z, 0.0), 1)
        now_largest = tl.maximum(largest, tl.max(z, 1))
        shrink = power(largest, now_largest, scale)
        p = power(z, now_largest[:, None], scale[:, None])
        total = total * shrink + tl.sum(p, 1)
        largest = now_largest
        if MEAN:
            if DEPTH >= WIDTH and COLUMNS == DEPTH:
                values = table
            else:
                values = load_tile(table_ptr, table_stride, item_tile, item_kept, out_columns, WIDTH)
            others = tl.where(own, 0.0, p)
            mean = accumulate(mean * shrink[:, None], others.to(values.dtype), values, PRECISION)

    out = (part * tl.num_programs(1) + batch).to(tl.int64) * row_count
    if tl.program_id(2) == 0:
        tl.store(largest_ptr + out + row, largest, mask=inside)
        tl.store(total_ptr + out + row, total, mask=inside)
        tl.store(target_logit_ptr + out + row, target_logit, mask=inside)
    if MEAN:
        store_tile(mean_ptr + out * WIDTH, WIDTH, first_row, inside, out_columns, mean, WIDTH)


@triton.jit
def softmax_merge(
    largest_ptr, total_ptr, target_logit_ptr, mean_ptr, table_ptr, target_ptr, inverse_temperature_ptr, coefficient_ptr,
    statistics_ptr, loss_ptr, gradient_ptr,
    row_count, parts, ignore_index, first_entry, table_stride, table_batch_stride, gradient_stride,
    gradient_batch_stride,
    WIDTH: tl.constexpr, STATES: tl.constexpr, CONTRASTIVE: tl.constexpr, MEAN: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The parts together: (largest, total) and logsumexp - target's logit of each row, both over the temperature, and
    with MEAN the gradient coefficient * inverse_temperature * (mean item - target's item) of each row. Where there is
    no target, its logit and its item are 0.

    Grid: row tiles, batches, tiles of columns. statistics [rows, batches, 2], loss and coefficient [rows, batches].
    """
    first_row = tl.program_id(0) * ROWS
    batch = tl.program_id(1)
    batches = tl.num_programs(1)
    row = first_row + tl.arange(0, ROWS)
    inside = row < row_count
    target, kept = _targets(target_ptr, row, inside, ignore_index, first_entry, STATES, CONTRASTIVE)
    scale = tl.load(inverse_temperature_ptr + row % STATES)

    largest = tl.full((ROWS,), NOWHERE, tl.float32)
    for part in tl.range(0, parts):
        out = (part * batches + batch).to(tl.int64) * row_count
        largest = tl.maximum(largest, tl.load(largest_ptr + out + row, mask=inside, other=NOWHERE))
    total = tl.zeros((ROWS,), tl.float32)
    target_logit = tl.zeros((ROWS,), tl.float32)
    columns = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    mean = tl.zeros((ROWS, COLUMNS), tl.float32)
    for part in tl.range(0, parts):
        out = (part * batches + batch).to(tl.int64) * row_count
        share = power(tl.load(largest_ptr + out + row, mask=inside, other=NOWHERE), largest, scale)
        total += share * tl.load(total_ptr + out + row, mask=inside, other=0.0)
        target_logit += tl.load(target_logit_ptr + out + row, mask=inside, other=0.0)
        if MEAN:
            part_mean = load_tile(mean_ptr + out * WIDTH, WIDTH, first_row, inside, columns, WIDTH)
            mean += share[:, None] * part_mean

    total = tl.where(inside, total, 1.0)
    place = row * batches + batch
    if tl.program_id(2) == 0:
        loss = tl.where(kept, tl.log(total) + (largest - target_logit) * scale, 0.0)
        tl.store(statistics_ptr + 2 * place, largest, mask=inside)
        tl.store(statistics_ptr + 2 * place + 1, total, mask=inside)
        tl.store(loss_ptr + place, loss, mask=inside)
    if MEAN:
        coefficient = tl.load(coefficient_ptr + place, mask=kept, other=0.0) * scale
        entry = table_ptr + batch * table_batch_stride + target.to(tl.int64)[:, None] * table_stride + columns[None, :]
        has_target = kept & (target >= 0)
        own = tl.load(entry, mask=has_target[:, None] & (columns < WIDTH)[None, :], other=0.0).to(tl.float32)
        # The target's item on its own: its part in the mean and its -1 would cancel where the target is likely.
        inverse_total = tl.div_rn(1.0, total)
        own_share = tl.where(has_target, power(target_logit, largest, scale) * inverse_total - 1.0, 0.0)
        gradient = coefficient[:, None] * (mean * inverse_total[:, None] + own_share[:, None] * own)
        gradient = tl.where(kept[:, None], gradient, 0.0)
        store_tile(
            gradient_ptr + batch * gradient_batch_stride, gradient_stride, first_row, inside, columns, gradient, WIDTH
        )


@triton.jit
def softmax_table_gradient(
    rows_ptr, table_ptr, target_ptr, group_ptr, inverse_temperature_ptr, coefficient_ptr, statistics_ptr, gradient_ptr,
    row_count, item_count, ignore_index, first_entry, row_stride, table_stride, batch_stride, gradient_stride,
    gradient_batch_stride,
    WIDTH: tl.constexpr, STATES: tl.constexpr, CONTRASTIVE: tl.constexpr, GROUPED: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr, ITEMS: tl.constexpr, DEPTH: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The gradient of one tile of items from all rows: sum of coefficient * inverse_temperature * (p - 1 at the target)
    times the row.

    Grid: item tiles, batches, tiles of columns.
    """
    first_item = tl.program_id(0) * ITEMS
    batch = tl.program_id(1)
    batches = tl.num_programs(1)
    out_columns = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    rows_ptr += batch * batch_stride
    table_ptr += batch * batch_stride
    item = first_item + tl.arange(0, ITEMS)
    item_kept = item < item_count
    table = hold(table_ptr, table_stride, first_item, item_kept, WIDTH, DEPTH)

    gradient = tl.zeros((ITEMS, COLUMNS), tl.float32)
    for row_tile in tl.range(0, row_count, ROWS):
        row = row_tile + tl.arange(0, ROWS)
        inside = row < row_count
        target, kept = _targets(target_ptr, row, inside, ignore_index, first_entry, STATES, CONTRASTIVE)
        place = row * batches + batch
        scale = tl.load(inverse_temperature_ptr + row % STATES)
        largest = tl.load(statistics_ptr + 2 * place, mask=inside, other=0.0)
        total = tl.load(statistics_ptr + 2 * place + 1, mask=inside, other=1.0)
        coefficient = tl.load(coefficient_ptr + place, mask=kept, other=0.0) * scale
        z, states = held_product(
            table, table_ptr, table_stride, first_item, item_kept, rows_ptr, row_stride, row_tile, kept,
            WIDTH, DEPTH, PRECISION,
        )  # fmt: skip
        p = power(z, largest[None, :], scale[None, :]) * tl.div_rn(1.0, total)[None, :]
        if GROUPED:
            p = tl.where(_same_group(group_ptr, item, item_kept, target, inside), 0.0, p)
        dz = coefficient[None, :] * tl.where(item[:, None] == target[None, :], p - 1.0, p)
        dz = tl.where(kept[None, :], dz, 0.0)
        if DEPTH >= WIDTH and COLUMNS == DEPTH:
            values = states
        else:
            values = load_tile(rows_ptr, row_stride, row_tile, kept, out_columns, WIDTH)
        gradient = accumulate(gradient, dz.to(values.dtype), values, PRECISION)
    store_tile(
        gradient_ptr + batch * gradient_batch_stride, gradient_stride, first_item, item_kept, out_columns, gradient,
        WIDTH,
    )  # fmt: skip

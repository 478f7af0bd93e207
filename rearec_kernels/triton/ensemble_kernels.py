"""Kernels of the ensemble reasoning loss: cross-entropy of the mean state, and divergence between the states.

A block holds one tile of rows in all their STATES, and for each tile of items one tile of logits [items, rows] per
state at a time: the mean's logits and the differences between states come from these very accumulators. Logits are in
the units of the product, not yet over the temperature, until they become exponents.

With u_t the sum over the other states s (the later ones in the PAPER's form) of z_t - z_s, the divergence of a row is
the sum over t of E_t[u_t], and its gradient in z_t is p_t (u_t - E_t[u_t]), in the paper's form plus the sum over the
earlier states s of p_t - p_s.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rearec_kernels.triton.tiles import NOWHERE, accumulate, held_product, load_tile, power, product, store_tile


@triton.jit
def _load_states(rows_ptr, first_row, kept, columns, WIDTH: tl.constexpr, STATES: tl.constexpr):
    """A tile [rows, columns] of each state, of rows [.., STATES, WIDTH]."""
    states = ()
    for t in tl.static_range(STATES):
        states = states + (load_tile(rows_ptr + t * WIDTH, STATES * WIDTH, first_row, kept, columns, WIDTH),)
    return states


@triton.jit
def _state_logits(
    states, table, rows_ptr, table_ptr, first_row, row_kept, first_item, item_kept,
    WIDTH: tl.constexpr, STATES: tl.constexpr, PRECISION: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """[items, rows] of each state: from what is there of rows and table if that is all of them, else loaded."""
    logits = ()
    for t in tl.static_range(STATES):
        if DEPTH >= WIDTH:
            nothing = tl.zeros((item_kept.shape[0], row_kept.shape[0]), tl.float32)
            z = product(table, tl.trans(states[t]), nothing, PRECISION)
        else:
            z, _ = held_product(
                0, table_ptr, WIDTH, first_item, item_kept, rows_ptr + t * WIDTH, STATES * WIDTH, first_row, row_kept,
                WIDTH, DEPTH, PRECISION,
            )  # fmt: skip
        logits = logits + (z,)
    return logits


@triton.jit
def _mean_logit(z, STATES: tl.constexpr):
    """Of all states, as the first one's and the mean difference to it: exact where the states agree."""
    total = tl.zeros_like(z[0])
    for t in tl.static_range(1, STATES):
        total += z[t] - z[0]
    return z[0] + total / STATES


@triton.jit
def _differences(z, STATES: tl.constexpr, PAPER: tl.constexpr):
    """u_t of every state, from differences of logits: exactly 0 where the states agree."""
    others = tl.zeros_like(z[0])
    if not PAPER:
        for t in tl.static_range(1, STATES):
            others += z[t] - z[0]
    differences = ()
    for t in tl.static_range(STATES - 1, -1, -1):
        relative = z[t] - z[0]
        if PAPER:
            u = (STATES - 1 - t) * relative - others
            others += relative
        else:
            u = STATES * relative - others
        differences = (u,) + differences
    return differences


@triton.jit
def _logit_gradients(
    z, largest, inverse_total, spread, scale, hit, cross_entropy_share, divergence_share,
    STATES: tl.constexpr, PAPER: tl.constexpr,
):  # fmt: skip
    """The gradient of every state's logits; statistics of the mean state are the last of theirs."""
    mean = power(_mean_logit(z, STATES), largest[STATES][None, :], scale) * inverse_total[STATES][None, :]
    common = cross_entropy_share[None, :] / STATES * tl.where(hit, mean - 1.0, mean)
    u = _differences(z, STATES, PAPER)
    earlier = tl.zeros_like(z[0])
    gradients = ()
    for t in tl.static_range(STATES):
        p = power(z[t], largest[t][None, :], scale) * inverse_total[t][None, :]
        if PAPER:
            of_divergence = p * ((u[t] - spread[t][None, :]) * scale + t) - earlier
            earlier += p
        else:
            of_divergence = p * (u[t] - spread[t][None, :]) * scale
        gradients = gradients + (common + divergence_share[None, :] * of_divergence,)
    return gradients


@triton.jit
def _load_statistics(largest_ptr, total_ptr, spread_ptr, row, inside, STATES: tl.constexpr):
    """Largest, 1 / total and spread of the states, of the first two also those of the mean; harmless ones outside."""
    largest = ()
    inverse_total = ()
    spread = ()
    for t in tl.static_range(STATES + 1):
        place = row * (STATES + 1) + t
        largest = largest + (tl.load(largest_ptr + place, mask=inside, other=0.0),)
        inverse_total = inverse_total + (tl.div_rn(1.0, tl.load(total_ptr + place, mask=inside, other=1.0)),)
        if t < STATES:
            spread = spread + (tl.load(spread_ptr + row * STATES + t, mask=inside, other=0.0),)
    return largest, inverse_total, spread


@triton.jit
def ensemble_statistics(
    rows_ptr, table_ptr, target_ptr, largest_ptr, total_ptr, spread_ptr, target_logit_ptr,
    row_count, item_count, items_per_part, ignore_index, scale,
    WIDTH: tl.constexpr, STATES: tl.constexpr, PAPER: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, ITEMS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One part of the items, for one tile of rows: of every state and of their mean the largest logit and the sum of
    exponentials relative to it, of every state the sum of u_t weighted by them, and the mean's logit of the target.

    Grid: row tiles, parts. Outputs [parts, rows, STATES + 1] twice, [parts, rows, STATES], [parts, rows].
    """
    first_row = tl.program_id(0) * ROWS
    part = tl.program_id(1)
    row = first_row + tl.arange(0, ROWS)
    inside = row < row_count
    target = tl.load(target_ptr + row, mask=inside, other=ignore_index)
    kept = inside & (target != ignore_index)
    depth = tl.arange(0, DEPTH)
    states = ()
    if DEPTH >= WIDTH:
        states = _load_states(rows_ptr, first_row, kept, depth, WIDTH, STATES)

    largest = ()
    total = ()
    spread = ()
    for t in tl.static_range(STATES + 1):
        largest = largest + (tl.full((ROWS,), NOWHERE, tl.float32),)
        total = total + (tl.zeros((ROWS,), tl.float32),)
        if t < STATES:
            spread = spread + (tl.zeros((ROWS,), tl.float32),)
    target_logit = tl.zeros((ROWS,), tl.float32)
    first_item = part * items_per_part
    end_item = tl.minimum(first_item + items_per_part, item_count)
    for item_tile in tl.range(first_item, end_item, ITEMS):
        item = item_tile + tl.arange(0, ITEMS)
        item_kept = item < end_item
        table = load_tile(table_ptr, WIDTH, item_tile, item_kept, depth, WIDTH)
        z = _state_logits(
            states, table, rows_ptr, table_ptr, first_row, kept, item_tile, item_kept, WIDTH, STATES, PRECISION, DEPTH
        )
        u = _differences(z, STATES, PAPER)
        mean = _mean_logit(z, STATES)
        target_logit += tl.sum(tl.where(item[:, None] == target.to(tl.int32)[None, :], mean, 0.0), 0)
        next_largest = ()
        next_total = ()
        next_spread = ()
        for t in tl.static_range(STATES + 1):
            if t < STATES:
                logit = tl.where(item_kept[:, None], z[t], NOWHERE)
            else:
                logit = tl.where(item_kept[:, None], mean, NOWHERE)
            now_largest = tl.maximum(largest[t], tl.max(logit, 0))
            shrink = power(largest[t], now_largest, scale)
            p = power(logit, now_largest[None, :], scale)
            next_largest = next_largest + (now_largest,)
            next_total = next_total + (total[t] * shrink + tl.sum(p, 0),)
            if t < STATES:
                next_spread = next_spread + (spread[t] * shrink + tl.sum(p * u[t], 0),)
        largest = next_largest
        total = next_total
        spread = next_spread

    place = part.to(tl.int64) * row_count + row
    for t in tl.static_range(STATES + 1):
        tl.store(largest_ptr + place * (STATES + 1) + t, largest[t], mask=inside)
        tl.store(total_ptr + place * (STATES + 1) + t, total[t], mask=inside)
        if t < STATES:
            tl.store(spread_ptr + place * STATES + t, spread[t], mask=inside)
    tl.store(target_logit_ptr + place, target_logit, mask=inside)


@triton.jit
def ensemble_merge(
    part_largest_ptr, part_total_ptr, part_spread_ptr, part_target_logit_ptr, target_ptr,
    largest_ptr, total_ptr, spread_ptr, cross_entropy_ptr, divergence_ptr,
    row_count, parts, ignore_index, scale,
    STATES: tl.constexpr, PAPER: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The parts together: largest and total [rows, STATES + 1], E_t[u_t] [rows, STATES] in the units of the logits, and
    each row's cross-entropy and divergence, 0 for ignored rows.

    Grid: row tiles.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < row_count
    target = tl.load(target_ptr + row, mask=inside, other=ignore_index)
    kept = inside & (target != ignore_index)
    target_logit = tl.zeros((ROWS,), tl.float32)
    for part in tl.range(0, parts):
        target_logit += tl.load(part_target_logit_ptr + part * row_count + row, mask=inside, other=0.0)
    divergence = tl.zeros((ROWS,), tl.float32)
    first_largest = tl.zeros((ROWS,), tl.float32)
    first_log_total = tl.zeros((ROWS,), tl.float32)
    for t in tl.static_range(STATES + 1):
        largest = tl.full((ROWS,), NOWHERE, tl.float32)
        for part in tl.range(0, parts):
            place = (part * row_count + row) * (STATES + 1) + t
            largest = tl.maximum(largest, tl.load(part_largest_ptr + place, mask=inside, other=NOWHERE))
        total = tl.zeros((ROWS,), tl.float32)
        spread = tl.zeros((ROWS,), tl.float32)
        for part in tl.range(0, parts):
            place = (part * row_count + row) * (STATES + 1) + t
            share = power(tl.load(part_largest_ptr + place, mask=inside, other=NOWHERE), largest, scale)
            total += share * tl.load(part_total_ptr + place, mask=inside, other=0.0)
            if t < STATES:
                place = (part * row_count + row) * STATES + t
                spread += share * tl.load(part_spread_ptr + place, mask=inside, other=0.0)
        total = tl.where(inside, total, 1.0)
        log_total = tl.log(total)
        tl.store(largest_ptr + row * (STATES + 1) + t, largest, mask=inside)
        tl.store(total_ptr + row * (STATES + 1) + t, total, mask=inside)
        if t == STATES:
            cross_entropy = log_total + (largest - target_logit) * scale
            tl.store(cross_entropy_ptr + row, tl.where(kept, cross_entropy, 0.0), mask=inside)
        else:
            spread = spread / total
            tl.store(spread_ptr + row * STATES + t, spread, mask=inside)
            divergence += spread * scale
            if PAPER:
                # The normalisers' coefficients add up to 0: what is common to all states cancels.
                if t == 0:
                    first_largest = largest
                    first_log_total = log_total
                relative = (largest - first_largest) * scale + log_total - first_log_total
                divergence -= (STATES - 1 - 2 * t) * relative
    tl.store(divergence_ptr + row, tl.where(kept, divergence, 0.0), mask=inside)


@triton.jit
def ensemble_rows_gradient(
    rows_ptr, table_ptr, target_ptr, largest_ptr, total_ptr, spread_ptr, share_ptr, gradient_ptr,
    row_count, item_count, items_per_part, ignore_index, scale, divergence_factor,
    WIDTH: tl.constexpr, STATES: tl.constexpr, PAPER: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, ITEMS: tl.constexpr, DEPTH: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """What one part of the items gives to the gradient of one tile of rows. share [rows]: of a row in the mean.

    Grid: row tiles x parts, tiles of columns. Output [parts, rows, STATES, WIDTH].
    """
    row_tiles = tl.cdiv(row_count, ROWS)
    first_row = tl.program_id(0) % row_tiles * ROWS
    part = tl.program_id(0) // row_tiles
    out_columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    row = first_row + tl.arange(0, ROWS)
    inside = row < row_count
    target = tl.load(target_ptr + row, mask=inside, other=ignore_index)
    kept = inside & (target != ignore_index)
    share = tl.load(share_ptr + row, mask=kept, other=0.0) * scale
    largest, inverse_total, spread = _load_statistics(largest_ptr, total_ptr, spread_ptr, row, inside, STATES)
    depth = tl.arange(0, DEPTH)
    states = ()
    if DEPTH >= WIDTH:
        states = _load_states(rows_ptr, first_row, kept, depth, WIDTH, STATES)

    gradients = ()
    for t in tl.static_range(STATES):
        gradients = gradients + (tl.zeros((COLUMNS, ROWS), tl.float32),)
    first_item = part * items_per_part
    end_item = tl.minimum(first_item + items_per_part, item_count)
    for item_tile in tl.range(first_item, end_item, ITEMS):
        item = item_tile + tl.arange(0, ITEMS)
        item_kept = item < end_item
        table = load_tile(table_ptr, WIDTH, item_tile, item_kept, depth, WIDTH)
        z = _state_logits(
            states, table, rows_ptr, table_ptr, first_row, kept, item_tile, item_kept, WIDTH, STATES, PRECISION, DEPTH
        )
        hit = item[:, None] == target.to(tl.int32)[None, :]
        dz = _logit_gradients(
            z, largest, inverse_total, spread, scale, hit, share, share * divergence_factor, STATES, PAPER
        )
        if DEPTH >= WIDTH and COLUMNS == DEPTH:
            values = table
        else:
            values = load_tile(table_ptr, WIDTH, item_tile, item_kept, out_columns, WIDTH)
        next_gradients = ()
        for t in tl.static_range(STATES):
            # The item tile's transpose times [items, rows]: tiles of few rows are no obstacle to wide products.
            counted = tl.where(kept[None, :] & item_kept[:, None], dz[t], 0.0).to(values.dtype)
            next_gradients = next_gradients + (accumulate(gradients[t], tl.trans(values), counted, PRECISION),)
        gradients = next_gradients

    out = gradient_ptr + part.to(tl.int64) * row_count * STATES * WIDTH
    for t in tl.static_range(STATES):
        store_tile(out + t * WIDTH, STATES * WIDTH, first_row, inside, out_columns, tl.trans(gradients[t]), WIDTH)


@triton.jit
def ensemble_table_gradient(
    rows_ptr, table_ptr, target_ptr, largest_ptr, total_ptr, spread_ptr, share_ptr, gradient_ptr,
    row_count, item_count, ignore_index, scale, divergence_factor,
    WIDTH: tl.constexpr, STATES: tl.constexpr, PAPER: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, ITEMS: tl.constexpr, DEPTH: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The gradient of one tile of items from all rows and states.

    Grid: item tiles, tiles of columns. Output [items, WIDTH].
    """
    first_item = tl.program_id(0) * ITEMS
    out_columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    item = first_item + tl.arange(0, ITEMS)
    item_kept = item < item_count
    depth = tl.arange(0, DEPTH)
    table = load_tile(table_ptr, WIDTH, first_item, item_kept, depth, WIDTH)

    gradient = tl.zeros((ITEMS, COLUMNS), tl.float32)
    for row_tile in tl.range(0, row_count, ROWS):
        row = row_tile + tl.arange(0, ROWS)
        inside = row < row_count
        target = tl.load(target_ptr + row, mask=inside, other=ignore_index)
        kept = inside & (target != ignore_index)
        share = tl.load(share_ptr + row, mask=kept, other=0.0) * scale
        largest, inverse_total, spread = _load_statistics(largest_ptr, total_ptr, spread_ptr, row, inside, STATES)
        states = ()
        if DEPTH >= WIDTH:
            states = _load_states(rows_ptr, row_tile, kept, depth, WIDTH, STATES)
        z = _state_logits(
            states, table, rows_ptr, table_ptr, row_tile, kept, first_item, item_kept, WIDTH, STATES, PRECISION, DEPTH
        )
        hit = item[:, None] == target.to(tl.int32)[None, :]
        dz = _logit_gradients(
            z, largest, inverse_total, spread, scale, hit, share, share * divergence_factor, STATES, PAPER
        )
        for t in tl.static_range(STATES):
            if DEPTH >= WIDTH and COLUMNS == DEPTH:
                values = states[t]
            else:
                values = load_tile(rows_ptr + t * WIDTH, STATES * WIDTH, row_tile, kept, out_columns, WIDTH)
            counted = tl.where(kept[None, :], dz[t], 0.0).to(values.dtype)
            gradient = accumulate(gradient, counted, values, PRECISION)
    store_tile(gradient_ptr, WIDTH, first_item, item_kept, out_columns, gradient, WIDTH)

"""Kernels of the ensemble reasoning loss: cross-entropy of the mean state, and divergence between the states.

A block holds one tile of rows in all their STATES, and for each tile of items one tile of logits [rows, items] per
state at a time: the mean's logits and the differences between states come from these very accumulators. Rows come
first, so that tensor cores have full tiles of them and sums over items stay within a few threads. Logits are in the
units of the product, not yet over the temperature, until they become exponents.

With u_t the sum over the other states s (the later ones in the PAPER's form) of z_t - z_s, the divergence of a row is
the sum over t of E_t[u_t], and its gradient in z_t is p_t (u_t - E_t[u_t]), in the paper's form plus the sum over the
earlier states s of p_t - p_s.
"""

# Triton's language has no types to check.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from rearec_kernels.triton.tile_kernels import NOWHERE, held_product, load_tile, power, product


@triton.jit
def _load_states(rows_ptr, first_row, kept, WIDTH: tl.constexpr, STATES: tl.constexpr, DEPTH: tl.constexpr):
    """A tile [rows, DEPTH] of each state, of rows [.., STATES, WIDTH], if that is all of their columns."""
    states = ()
    if DEPTH >= WIDTH:
        for t in tl.static_range(STATES):
            tile = load_tile(rows_ptr + t * WIDTH, STATES * WIDTH, first_row, kept, tl.arange(0, DEPTH), WIDTH)
            states = states + (tile,)
    return states


@triton.jit
def _state_logits(
    states, rows_ptr, table_ptr, first_row, row_kept, first_item, item_kept,
    WIDTH: tl.constexpr, STATES: tl.constexpr, PRECISION: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """[rows, items] of each state: from the states at hand, or from parts of them as they are loaded."""
    logits = ()
    if DEPTH >= WIDTH:
        table = tl.trans(load_tile(table_ptr, WIDTH, first_item, item_kept, tl.arange(0, DEPTH), WIDTH))
        for t in tl.static_range(STATES):
            zeros = tl.zeros((row_kept.shape[0], item_kept.shape[0]), tl.float32)
            logits = logits + (product(states[t], table, zeros, PRECISION),)
    else:
        for t in tl.static_range(STATES):
            z, _ = held_product(
                0, rows_ptr + t * WIDTH, STATES * WIDTH, first_row, row_kept, table_ptr, WIDTH, first_item, item_kept,
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
    return z[0] + total * (1 / STATES)


@triton.jit
def _others(z, STATES: tl.constexpr, PAPER: tl.constexpr):
    """What the last state's difference is reckoned with: the sum of the other states relative to the first."""
    others = tl.zeros_like(z[0])
    if not PAPER:
        for t in tl.static_range(1, STATES):
            others += z[t] - z[0]
    return others


@triton.jit
def _difference(z, t: tl.constexpr, others, STATES: tl.constexpr, PAPER: tl.constexpr):
    """u_t, and `others` for the state before it. From differences of logits: exactly 0 where the states agree."""
    relative = z[t] - z[0]
    if PAPER:
        return (STATES - 1 - t) * relative - others, others + relative
    else:
        return STATES * relative - others, others


@triton.jit
def _exponentials(z, item_kept, largest, scale):
    """Relative to the largest logit so far, which comes second; third, by what those relative to `largest` shrink."""
    z = tl.where(item_kept[None, :], z, NOWHERE)
    now_largest = tl.maximum(largest, tl.max(z, 1))
    return power(z, now_largest[:, None], scale), now_largest, power(largest, now_largest, scale)


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
    target = target.to(tl.int32)
    states = _load_states(rows_ptr, first_row, kept, WIDTH, STATES, DEPTH)

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
    for item_tile in tl.range(first_item, end_item, ITEMS, disable_licm=True):
        item = item_tile + tl.arange(0, ITEMS)
        item_kept = item < end_item
        z = _state_logits(
            states, rows_ptr, table_ptr, first_row, kept, item_tile, item_kept, WIDTH, STATES, PRECISION, DEPTH
        )
        mean = _mean_logit(z, STATES)
        target_logit += tl.sum(tl.where(item[None, :] == target[:, None], mean, 0.0), 1)
        p, mean_largest, shrink = _exponentials(mean, item_kept, largest[STATES], scale)
        mean_total = total[STATES] * shrink + tl.sum(p, 1)
        others = _others(z, STATES, PAPER)
        next_largest = (mean_largest,)
        next_total = (mean_total,)
        next_spread = ()
        for t in tl.static_range(STATES - 1, -1, -1):
            p, now_largest, shrink = _exponentials(z[t], item_kept, largest[t], scale)
            u, others = _difference(z, t, others, STATES, PAPER)
            next_largest = (now_largest,) + next_largest
            next_total = (total[t] * shrink + tl.sum(p, 1),) + next_total
            next_spread = (spread[t] * shrink + tl.sum(p * u, 1),) + next_spread
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
def ensemble_logit_gradients(
    rows_ptr, table_ptr, target_ptr, largest_ptr, total_ptr, spread_ptr, share_ptr, gradient_ptr,
    row_count, first_item, chunk_items, item_count, items_per_part, ignore_index, scale, divergence_factor,
    WIDTH: tl.constexpr, STATES: tl.constexpr, PAPER: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, ITEMS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """The gradient of the logits of `chunk_items` items from `first_item` on. share [rows]: of a row in the mean.

    Grid: row tiles, parts of the chunk. Output [rows, STATES, chunk_items].
    """
    first_row = tl.program_id(0) * ROWS
    part = tl.program_id(1)
    row = first_row + tl.arange(0, ROWS)
    inside = row < row_count
    target = tl.load(target_ptr + row, mask=inside, other=ignore_index)
    kept = inside & (target != ignore_index)
    target = target.to(tl.int32)
    largest, inverse_total, spread = _load_statistics(largest_ptr, total_ptr, spread_ptr, row, inside, STATES)
    share = tl.load(share_ptr + row, mask=kept, other=0.0) * scale
    states = _load_states(rows_ptr, first_row, kept, WIDTH, STATES, DEPTH)
    cross_entropy_share = share * (1 / STATES)
    divergence_share = share * divergence_factor
    gradient_ptr += first_row.to(tl.int64) * STATES * chunk_items - first_item

    first_of_part = first_item + part * items_per_part
    end_item = tl.minimum(tl.minimum(first_of_part + items_per_part, first_item + chunk_items), item_count)
    for item_tile in tl.range(first_of_part, end_item, ITEMS, disable_licm=True):
        item = item_tile + tl.arange(0, ITEMS)
        item_kept = item < end_item
        z = _state_logits(
            states, rows_ptr, table_ptr, first_row, kept, item_tile, item_kept, WIDTH, STATES, PRECISION, DEPTH
        )
        mean = power(_mean_logit(z, STATES), largest[STATES][:, None], scale) * inverse_total[STATES][:, None]
        hit = item[None, :] == target[:, None]
        common = cross_entropy_share[:, None] * tl.where(hit, mean - 1.0, mean)
        others = _others(z, STATES, PAPER)
        u = ()
        for t in tl.static_range(STATES - 1, -1, -1):
            difference, others = _difference(z, t, others, STATES, PAPER)
            u = (difference,) + u
        earlier = tl.zeros_like(z[0])
        for t in tl.static_range(STATES):
            # Ignored rows have a share of 0 in finite numbers: their states are loaded as 0.
            if PAPER:
                p = power(z[t], largest[t][:, None], scale) * inverse_total[t][:, None]
                of_divergence = p * ((u[t] - spread[t][:, None]) * scale + t) - earlier
                earlier += p
                gradient = common + divergence_share[:, None] * of_divergence
            else:
                factor = inverse_total[t] * (divergence_share * scale)
                p = power(z[t], largest[t][:, None], scale)
                gradient = common + p * factor[:, None] * (u[t] - spread[t][:, None])
            out = gradient_ptr + (tl.arange(0, ROWS) * STATES + t)[:, None] * chunk_items + item[None, :]
            written = inside[:, None] & item_kept[None, :]
            tl.store(out, gradient.to(gradient_ptr.dtype.element_ty), mask=written)

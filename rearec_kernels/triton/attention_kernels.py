"""Kernels of the reasoning tokens' attention: one query head of one new token per program, and sums per key.

A row's keys are the `slots` of its prefix, then its tokens: key number `slots` is token 0. Query i of Q is token
tokens - Q + i, and sees the slots [start, end) and the tokens up to itself. What a query does not see is never read,
and may be anything. Probabilities are kept negative where dropout dropped them. Everything is computed in float32.
"""

# Triton's language has no types to check.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from rearec_kernels.triton.tile_kernels import NOWHERE


@triton.jit
def _program(order_ptr, heads, queries):
    """Row, query head and query of this program; rows that share a prefix are neighbours."""
    program = tl.program_id(0)
    row = tl.load(order_ptr + program // queries // heads)
    return row, program // queries % heads, program % queries


@triton.jit
def _vectors(
    prefix_ptr, slot_stride, token_ptr, token_stride, slots, key, seen, columns, WIDTH: tl.constexpr
):  # fmt: skip
    """float32 [keys, COLUMNS]: one head of K or V, 0 where not seen and beyond its width."""
    # Two loads, one of which is masked: choosing among two pointers would lose what is known of their alignment.
    inside = seen[:, None] & (columns < WIDTH)[None, :]
    in_prefix = prefix_ptr + key.to(tl.int64)[:, None] * slot_stride + columns[None, :]
    in_tokens = token_ptr + (key - slots).to(tl.int64)[:, None] * token_stride + columns[None, :]
    slot = tl.load(in_prefix, mask=inside & (key < slots)[:, None], other=0.0)
    token = tl.load(in_tokens, mask=inside & (key >= slots)[:, None], other=0.0)
    return slot.to(tl.float32) + token.to(tl.float32)


@triton.jit
def _score_ptr(prefix_ptr, token_ptr, slots, key):
    """Where a number per key lies, of one query: [slots] and [tokens]."""
    return tl.where(key < slots, prefix_ptr + key, token_ptr + (key - slots))


@triton.jit
def _dropped(seed, key, token, head, row, threshold):
    """bool [keys]: what dropout drops, a function of positions only; the same on every backend."""
    word, _, _, _ = tl.philox(seed, key, token, head, row)
    return word.to(tl.int64) < threshold


@triton.jit(do_not_specialize=["tokens", "mask_first", "mask_rows", "mask_of"])
def attention_forward(
    q_ptr, out_ptr, prefix_probs_ptr, token_probs_ptr, prefix_k_ptr, prefix_v_ptr, token_k_ptr, token_v_ptr,
    start_ptr, end_ptr, row_prefix_ptr, order_ptr, seed_ptr, mask_first, mask_rows, mask_of,
    queries, heads, kv_heads, slots, tokens,
    k_prefix_stride, k_slot_stride, k_head_stride, v_prefix_stride, v_slot_stride, v_head_stride,
    row_stride, token_stride, scale, threshold, keep,
    WIDTH: tl.constexpr, DROPOUT: tl.constexpr, KEEP: tl.constexpr, KEYS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One head of one query's output; with KEEP its probabilities too, 0 where not seen.

    Grid: rows x heads x queries. Probabilities [R, H, Q, slots] and [R, H, Q, tokens]; `keep` is 1 / (1 - dropout_p).
    """
    row, head, query = _program(order_ptr, heads, queries)
    start, end = tl.load(start_ptr + row), tl.load(end_ptr + row)
    prefix, wide_row = tl.load(row_prefix_ptr + row).to(tl.int64), row.to(tl.int64)
    kv_head = (head // (heads // kv_heads)).to(tl.int64)
    own = tokens - queries + query
    prefix_k_ptr += prefix * k_prefix_stride + kv_head * k_head_stride
    prefix_v_ptr += prefix * v_prefix_stride + kv_head * v_head_stride
    token_k_ptr += wide_row * row_stride + kv_head * WIDTH
    token_v_ptr += wide_row * row_stride + kv_head * WIDTH
    if DROPOUT:
        seed = tl.load(seed_ptr)
        mask_row = mask_first + row + row // mask_rows * (mask_of - mask_rows)

    columns = tl.arange(0, COLUMNS)
    vector = ((wide_row * queries + query) * heads + head) * WIDTH
    q = tl.load(q_ptr + vector + columns, mask=columns < WIDTH, other=0.0).to(tl.float32) * scale
    largest = tl.full((), NOWHERE, tl.float32)
    total = tl.full((), 0.0, tl.float32)
    out = tl.zeros((COLUMNS,), tl.float32)
    seen_slots = end - start
    seen_keys = seen_slots + own + 1
    for first in tl.range(0, seen_keys, KEYS):
        # Slots that are not seen are left out here: the keys seen lie side by side.
        place = first + tl.arange(0, KEYS)
        key = tl.where(place < seen_slots, start + place, slots + (place - seen_slots))
        seen = place < seen_keys
        k = _vectors(prefix_k_ptr, k_slot_stride, token_k_ptr, token_stride, slots, key, seen, columns, WIDTH)
        v = _vectors(prefix_v_ptr, v_slot_stride, token_v_ptr, token_stride, slots, key, seen, columns, WIDTH)
        score = tl.where(seen, tl.sum(q[None, :] * k, 1), NOWHERE)
        now_largest = tl.maximum(largest, tl.max(score, 0))
        subtracted = tl.where(now_largest == NOWHERE, 0.0, now_largest)  # weights are 0 if all scores so far are -inf
        shrink = tl.exp(largest - subtracted)
        weight = tl.exp(score - subtracted)
        total = total * shrink + tl.sum(weight, 0)
        if DROPOUT:
            weight = tl.where(_dropped(seed, key, own, head, mask_row, threshold), 0.0, weight)
        out = out * shrink + tl.sum(weight[:, None] * v, 0)
        largest = now_largest
    out = out * (keep / total)
    tl.store(out_ptr + vector + columns, out.to(out_ptr.dtype.element_ty), mask=columns < WIDTH)

    if KEEP:
        score_row = (wide_row * heads + head) * queries + query
        prefix_probs_ptr += score_row * slots
        token_probs_ptr += score_row * tokens
        for first in tl.range(0, slots + tokens, KEYS):
            key = first + tl.arange(0, KEYS)
            seen = ((key >= start) & (key < end)) | ((key >= slots) & (key <= slots + own))
            k = _vectors(prefix_k_ptr, k_slot_stride, token_k_ptr, token_stride, slots, key, seen, columns, WIDTH)
            p = tl.exp(tl.sum(q[None, :] * k, 1) - largest) / total
            if DROPOUT:
                p = tl.where(_dropped(seed, key, own, head, mask_row, threshold), -p, p)
            at = _score_ptr(prefix_probs_ptr, token_probs_ptr, slots, key)
            tl.store(at, tl.where(seen, p, 0.0), mask=key < slots + tokens)


@triton.jit(do_not_specialize=["tokens"])
def attention_score_gradient(
    grad_out_ptr, prefix_probs_ptr, token_probs_ptr, prefix_k_ptr, prefix_v_ptr, token_k_ptr, token_v_ptr,
    start_ptr, end_ptr, row_prefix_ptr, order_ptr, grad_q_ptr, prefix_dscores_ptr, token_dscores_ptr,
    queries, heads, kv_heads, slots, tokens,
    k_prefix_stride, k_slot_stride, k_head_stride, v_prefix_stride, v_slot_stride, v_head_stride,
    row_stride, token_stride, scale, keep,
    WIDTH: tl.constexpr, KEYS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """ds = p (dp - sum p dp) scale of the scores of one head of one query, 0 where not seen, and its dq = sum ds k.

    Grid: rows x heads x queries. ds as the probabilities: [R, H, Q, slots] and [R, H, Q, tokens]. V is read twice, the
    second time from the caches: to keep dp in memory between the passes would take a barrier.
    """
    row, head, query = _program(order_ptr, heads, queries)
    start, end = tl.load(start_ptr + row), tl.load(end_ptr + row)
    prefix, wide_row = tl.load(row_prefix_ptr + row).to(tl.int64), row.to(tl.int64)
    kv_head = (head // (heads // kv_heads)).to(tl.int64)
    own = tokens - queries + query
    prefix_k_ptr += prefix * k_prefix_stride + kv_head * k_head_stride
    prefix_v_ptr += prefix * v_prefix_stride + kv_head * v_head_stride
    token_k_ptr += wide_row * row_stride + kv_head * WIDTH
    token_v_ptr += wide_row * row_stride + kv_head * WIDTH
    score_row = (wide_row * heads + head) * queries + query
    prefix_probs_ptr += score_row * slots
    token_probs_ptr += score_row * tokens
    prefix_dscores_ptr += score_row * slots
    token_dscores_ptr += score_row * tokens

    columns = tl.arange(0, COLUMNS)
    vector = ((wide_row * queries + query) * heads + head) * WIDTH
    grad_out = tl.load(grad_out_ptr + vector + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    mean = tl.full((), 0.0, tl.float32)
    seen_slots = end - start
    seen_keys = seen_slots + own + 1
    for first in tl.range(0, seen_keys, KEYS):
        place = first + tl.arange(0, KEYS)
        key = tl.where(place < seen_slots, start + place, slots + (place - seen_slots))
        seen = place < seen_keys
        p = tl.load(_score_ptr(prefix_probs_ptr, token_probs_ptr, slots, key), mask=seen, other=0.0)
        v = _vectors(prefix_v_ptr, v_slot_stride, token_v_ptr, token_stride, slots, key, seen, columns, WIDTH)
        dp = tl.where(p < 0, 0.0, tl.sum(grad_out[None, :] * v, 1) * keep)
        mean += tl.sum(tl.abs(p) * dp, 0)

    grad_q = tl.zeros((COLUMNS,), tl.float32)
    for first in tl.range(0, slots + tokens, KEYS):
        key = first + tl.arange(0, KEYS)
        seen = ((key >= start) & (key < end)) | ((key >= slots) & (key <= slots + own))
        p = tl.load(_score_ptr(prefix_probs_ptr, token_probs_ptr, slots, key), mask=seen, other=0.0)
        k = _vectors(prefix_k_ptr, k_slot_stride, token_k_ptr, token_stride, slots, key, seen, columns, WIDTH)
        v = _vectors(prefix_v_ptr, v_slot_stride, token_v_ptr, token_stride, slots, key, seen, columns, WIDTH)
        dp = tl.where(p < 0, 0.0, tl.sum(grad_out[None, :] * v, 1) * keep)
        dscore = tl.where(seen, tl.abs(p) * (dp - mean) * scale, 0.0)
        at = _score_ptr(prefix_dscores_ptr, token_dscores_ptr, slots, key)
        tl.store(at, dscore, mask=key < slots + tokens)
        grad_q += tl.sum(dscore[:, None] * k, 0)
    tl.store(grad_q_ptr + vector + columns, grad_q.to(grad_q_ptr.dtype.element_ty), mask=columns < WIDTH)


@triton.jit
def _add_row(
    grad_k, grad_v, dscores_ptr, probs_ptr, q_ptr, grad_out_ptr, keys, key, seen, last_seen, row, kv_head, kv_heads,
    heads, queries, columns, WIDTH: tl.constexpr,
):  # fmt: skip
    """A row's share in the gradients [keys, COLUMNS] of the keys that it sees: ds q and p do, over the query heads of
    one K/V head and all queries.

    ds and p [R, H, Q, keys], q and do [R, Q, H, WIDTH]. Of the keys `seen`, query i sees those up to `last_seen` + i.
    """
    group = heads // kv_heads
    first_score = (row * heads + kv_head * group) * queries
    first_vector = row * queries * heads + kv_head * group
    # Each key loads q and do of its own, from the caches: a NaN of this row stays out of the keys that it does not see,
    # and a thread holds neighbouring columns of few keys, so that it needs few ds and p.
    within = seen[:, None] & (columns < WIDTH)[None, :]
    element = tl.broadcast_to(columns[None, :], within.shape)
    for i in tl.range(0, group * queries):
        scores = (first_score + i) * keys
        inside = within & (key <= last_seen + i % queries)[:, None]
        dscore = tl.load(dscores_ptr + scores + key, mask=seen, other=0.0)
        p = tl.load(probs_ptr + scores + key, mask=seen, other=0.0)
        vector = (first_vector + i % queries * heads + i // queries) * WIDTH
        grad_k += dscore[:, None] * tl.load(q_ptr + vector + element, mask=inside, other=0.0).to(tl.float32)
        grad_out = tl.load(grad_out_ptr + vector + element, mask=inside, other=0.0).to(tl.float32)
        grad_v += tl.where(p < 0, 0.0, p)[:, None] * grad_out
    return grad_k, grad_v


@triton.jit
def _store_vectors(ptr, stride, key, inside, columns, values, WIDTH: tl.constexpr):
    """Writes [keys, COLUMNS], one head of each key."""
    at = ptr + key.to(tl.int64)[:, None] * stride + columns[None, :]
    tl.store(at, values.to(ptr.dtype.element_ty), mask=inside[:, None] & (columns < WIDTH)[None, :])


@triton.jit(do_not_specialize=["tokens"])
def attention_token_gradient(
    dscores_ptr, probs_ptr, q_ptr, grad_out_ptr, grad_k_ptr, grad_v_ptr, queries, heads, kv_heads, tokens, keep,
    WIDTH: tl.constexpr, KEYS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """dk = sum ds q and dv = sum p do / (1 - dropout_p) of a tile of one row's tokens.

    Grid: rows x K/V heads, token tiles. dk and dv [R, tokens, Hkv, WIDTH]; `keep` is 1 / (1 - dropout_p).
    """
    row, kv_head = (tl.program_id(0) // kv_heads).to(tl.int64), tl.program_id(0) % kv_heads
    columns = tl.arange(0, COLUMNS)
    token = tl.program_id(1) * KEYS + tl.arange(0, KEYS)
    inside = token < tokens
    grad_k, grad_v = _add_row(
        tl.zeros((KEYS, COLUMNS), tl.float32), tl.zeros((KEYS, COLUMNS), tl.float32),
        dscores_ptr, probs_ptr, q_ptr, grad_out_ptr, tokens, token, inside, tokens - queries, row, kv_head, kv_heads,
        heads, queries, columns, WIDTH,
    )  # fmt: skip
    stride = kv_heads * WIDTH
    first = row * tokens * stride + kv_head * WIDTH
    _store_vectors(grad_k_ptr + first, stride, token, inside, columns, grad_k, WIDTH)
    _store_vectors(grad_v_ptr + first, stride, token, inside, columns, grad_v * keep, WIDTH)


@triton.jit(do_not_specialize=["queries"])
def attention_prefix_gradient(
    dscores_ptr, probs_ptr, q_ptr, grad_out_ptr, start_ptr, end_ptr, order_ptr, offsets_ptr, grad_k_ptr, grad_v_ptr,
    queries, heads, kv_heads, slots,
    WIDTH: tl.constexpr, KEYS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """dK = sum ds q and dV = sum p do of a tile of one prefix's slots, over its rows.

    Grid: prefixes x K/V heads, slot tiles. dK and dV [S, slots, Hkv, WIDTH]; do comes divided by 1 - dropout_p.
    """
    prefix, kv_head = tl.program_id(0) // kv_heads, tl.program_id(0) % kv_heads
    columns = tl.arange(0, COLUMNS)
    slot = tl.program_id(1) * KEYS + tl.arange(0, KEYS)
    grad_k = tl.zeros((KEYS, COLUMNS), tl.float32)
    grad_v = tl.zeros((KEYS, COLUMNS), tl.float32)
    for position in tl.range(tl.load(offsets_ptr + prefix), tl.load(offsets_ptr + prefix + 1)):
        row = tl.load(order_ptr + position)
        seen = (slot >= tl.load(start_ptr + row)) & (slot < tl.load(end_ptr + row))
        grad_k, grad_v = _add_row(
            grad_k, grad_v, dscores_ptr, probs_ptr, q_ptr, grad_out_ptr, slots, slot, seen, slots,
            row.to(tl.int64), kv_head, kv_heads, heads, queries, columns, WIDTH,
        )  # fmt: skip
    stride = kv_heads * WIDTH
    first = prefix.to(tl.int64) * slots * stride + kv_head * WIDTH
    _store_vectors(grad_k_ptr + first, stride, slot, slot < slots, columns, grad_k, WIDTH)
    _store_vectors(grad_v_ptr + first, stride, slot, slot < slots, columns, grad_v, WIDTH)

"""Every op in plain PyTorch, written for reading: any device and dtype, float64-safe, in log space.

This is the oracle of the tests and the fallback where no faster backend serves a device or a dtype. Functions have the
names and arguments of the ops in `ops.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from rearec_kernels.precision import accumulate_dtype, as_operand, ieee_products

# --- Attention of reasoning tokens -----------------------------------------------------------------------------------


def philox_word(seed: Tensor, slot: Tensor, token: Tensor, head: Tensor, row: Tensor) -> Tensor:
    """First word of Philox4x32-10 (Salmon et al., SC'11) as int64 in [0, 2^32); arguments broadcast.

    key = seed, counter = (slot, token, head, row).
    """
    low = 0xFFFFFFFF

    def multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
        # 32 x 32 -> 64 bits in int64 without overflow: b in two halves of 16 bits.
        high, rest = a * (b >> 16), a * (b & 0xFFFF)
        carry = (high & 0xFFFF) * 0x10000 + rest
        return ((high >> 16) + (carry >> 32)) & low, carry & low

    c0, c1, c2, c3 = torch.broadcast_tensors(slot, token, head, row)
    k0, k1 = seed & low, (seed >> 32) & low
    for _ in range(10):
        high0, low0 = multiply(0xD2511F53, c0)
        high1, low1 = multiply(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return c0


def _dropped(seed: Tensor, dropout_p: float, rows: int, heads: int, queries: int, slots: int, tokens: int) -> Tensor:
    """bool [rows, heads, queries, slots + tokens]: what dropout drops. The last `queries` tokens are the queries."""

    def index(count: int, first: int = 0) -> Tensor:
        return torch.arange(first, first + count, device=seed.device)

    word = philox_word(
        seed,
        index(slots + tokens),
        index(queries, tokens - queries)[:, None],
        index(heads)[:, None, None],
        index(rows)[:, None, None, None],
    )
    return word < dropout_p * 2.0**32


def _group_heads(x: Tensor, kv_heads: int) -> Tensor:
    """[R, Q, H, D] -> [R, Hkv, H / Hkv, Q, D]: query head h reads K/V head h // (H / Hkv)."""
    return x.unflatten(2, (kv_heads, -1)).permute(0, 2, 3, 1, 4)


def _ungroup_heads(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2, 4).flatten(2, 3)


def _accumulate(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _keys(prefix: Tensor, tokens: Sequence[Tensor], row_prefix: Tensor) -> Tensor:
    """Each row's K or V, prefix then tokens: [R, Hkv, C + tokens, D]."""
    return torch.cat([_accumulate(prefix)[row_prefix], *map(_accumulate, tokens)], dim=1).transpose(1, 2)


def _visible(queries: int, tokens: int, slots: int, start: Tensor, end: Tensor) -> Tensor:
    """bool [R, 1, Q, C + tokens]: slots in [start, end), and tokens up to the query's own."""
    slot = torch.arange(slots, device=start.device)
    token = torch.arange(tokens, device=start.device)
    in_prefix = (slot >= start[:, None]) & (slot < end[:, None])
    causal = token <= token[tokens - queries :, None]
    rows = start.shape[0]
    return torch.cat([in_prefix[:, None].expand(rows, queries, slots), causal.expand(rows, -1, -1)], dim=-1)[:, None]


def attention(
    q: Tensor, token_k: Sequence[Tensor], token_v: Sequence[Tensor], prefix_k: Tensor, prefix_v: Tensor,
    carriers: Sequence[Tensor], start: Tensor, end: Tensor, row_prefix: Tensor, order: Tensor,
    scale: float, dropout_p: float, seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """softmax(scale q Kᵀ) V over the row's slots and tokens, and the probabilities (negative where dropped)."""
    rows, queries, heads, _ = q.shape
    kv_heads, slots = prefix_k.shape[2], prefix_k.shape[1]
    k, v = _keys(prefix_k, token_k, row_prefix), _keys(prefix_v, token_v, row_prefix)
    tokens = k.shape[2] - slots
    scores = torch.einsum("rgnqd,rgkd->rgnqk", _group_heads(_accumulate(q), kv_heads), k).flatten(1, 2) * scale
    probs = scores.masked_fill(~_visible(queries, tokens, slots, start, end), float("-inf")).softmax(-1)
    kept = probs
    if dropout_p > 0:
        assert seed is not None
        dropped = _dropped(seed, dropout_p, rows, heads, queries, slots, tokens)
        kept = probs.masked_fill(dropped, 0.0) / (1 - dropout_p)
        probs = torch.where(dropped, -probs, probs)
    out = _ungroup_heads(torch.einsum("rgnqk,rgkd->rgnqd", kept.unflatten(1, (kv_heads, -1)), v)).to(q.dtype)
    return out.contiguous(), probs[..., :slots].contiguous(), probs[..., slots:].contiguous()


def attention_decode(
    q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor, token_k: Tensor, token_v: Tensor,
    start: Tensor, end: Tensor, row_prefix: Tensor, order: Tensor,
    length: int, scale: float, dropout_p: float, seed: Tensor | None,
) -> Tensor:  # fmt: skip
    """Writes k, v behind the first `length` tokens of token_k, token_v and attends; nothing is kept for gradients."""
    stop = length + q.shape[1]
    token_k[:, length:stop] = k
    token_v[:, length:stop] = v
    rows = (start, end, row_prefix, order)
    visible = ([token_k[:, :stop]], [token_v[:, :stop]])
    return attention(q, *visible, prefix_k, prefix_v, (), *rows, scale, dropout_p, seed)[0]


def attention_backward(
    grad_out: Tensor, q: Tensor, token_k: Sequence[Tensor], token_v: Sequence[Tensor], prefix_k: Tensor,
    prefix_v: Tensor, prefix_probs: Tensor, token_probs: Tensor, start: Tensor, end: Tensor, row_prefix: Tensor,
    order: Tensor, scale: float, dropout_p: float,
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:  # fmt: skip
    """ds = p (dp - Σ p dp); dq = Σ ds k; dk = ds q and dv = p do for the tokens; ds of the prefix slots."""
    kv_heads, slots = prefix_k.shape[2], prefix_k.shape[1]
    k, v = _keys(prefix_k, token_k, row_prefix), _keys(prefix_v, token_v, row_prefix)
    signed = torch.cat([prefix_probs, token_probs], dim=-1).unflatten(1, (kv_heads, -1))
    keep = ~signed.signbit() / (1 - dropout_p)
    probs = signed.abs()
    grouped_q, grouped_grad = (_group_heads(_accumulate(x), kv_heads) for x in (q, grad_out))
    dprobs = torch.einsum("rgnqd,rgkd->rgnqk", grouped_grad, v) * keep
    dscores = probs * (dprobs - (probs * dprobs).sum(-1, keepdim=True)) * scale
    grad_q = _ungroup_heads(torch.einsum("rgnqk,rgkd->rgnqd", dscores, k)).to(q.dtype)
    grad_k = torch.einsum("rgnqk,rgnqd->rkgd", dscores[..., slots:], grouped_q)
    grad_v = torch.einsum("rgnqk,rgnqd->rkgd", (probs * keep)[..., slots:], grouped_grad)
    steps = [t.shape[1] for t in token_k]
    dtype = prefix_k.dtype
    return (
        grad_q.contiguous(),
        [g.to(dtype, memory_format=torch.contiguous_format, copy=True) for g in grad_k.split(steps, dim=1)],
        [g.to(dtype, memory_format=torch.contiguous_format, copy=True) for g in grad_v.split(steps, dim=1)],
        dscores[..., :slots].flatten(1, 2).contiguous(),
    )


def attention_prefix_gradient(
    dscores: Sequence[Tensor], probs: Sequence[Tensor], q: Sequence[Tensor], grad_out: Sequence[Tensor],
    prefix_k: Tensor, prefix_v: Tensor, start: Tensor, end: Tensor, row_prefix: Tensor, order: Tensor, offsets: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """dK = Σ ds q and dV = Σ p do over the steps, their queries and the rows of each prefix."""
    kv_heads = prefix_k.shape[2]

    def total(weights: Sequence[Tensor], vectors: Sequence[Tensor], prefix: Tensor) -> Tensor:
        result = torch.zeros(prefix.shape, dtype=dscores[0].dtype, device=prefix.device)
        for w, x in zip(weights, vectors, strict=True):
            grouped = (w.unflatten(1, (kv_heads, -1)), _group_heads(_accumulate(x), kv_heads))
            result.index_add_(0, row_prefix, torch.einsum("rgnqc,rgnqd->rcgd", *grouped))
        return result.to(prefix.dtype)

    kept = [p.masked_fill(p.signbit(), 0.0) for p in probs]
    return total(dscores, q, prefix_k), total(kept, grad_out, prefix_v)


# --- Losses ----------------------------------------------------------------------------------------------------------
#
# Chunks of rows keep the logits of all rows and steps from being in memory at once. Ignored rows are zeroed, not left
# out: which they are is not known without waiting for the device.

_CHUNK_LOGITS = 2**22


def _row_chunks(rows: int, logits_per_row: int) -> Iterator[slice]:
    size = max(1, _CHUNK_LOGITS // max(1, logits_per_row))
    return (slice(first, first + size) for first in range(0, rows, size))


def _operands(
    first: Tensor, second: Tensor, precision: str, valid: Tensor | None = None
) -> tuple[Tensor, Tensor, torch.dtype]:
    dtype = accumulate_dtype(first, second)
    if valid is not None:
        first = first.masked_fill(~valid[:, None, None], 0.0)
    return as_operand(first, precision, dtype), as_operand(second, precision, dtype), dtype


def _gradient_buffers(first: Tensor, second: Tensor, first_needed: bool, second_needed: bool) -> tuple[Tensor, Tensor]:
    return first.new_zeros(first.shape if first_needed else 0), second.new_zeros(second.shape if second_needed else 0)


def _one_hot(target: Tensor, valid: Tensor, items: int, dtype: torch.dtype) -> Tensor:
    """[R] -> [R, 1, N], no target in the rows that are not valid."""
    hit = target[:, None, None] == torch.arange(items, device=target.device)
    return hit.logical_and_(valid[:, None, None]).to(dtype)


def _statistics(z: Tensor) -> Tensor:
    """[..., N] -> [..., 2]: the largest, and the sum of exponentials relative to it."""
    largest = z.amax(-1)
    return torch.stack([largest, (z - largest[..., None]).exp().sum(-1)], dim=-1)


def _log_softmax(z: Tensor, statistics: Tensor) -> Tensor:
    return z - statistics[..., :1] - statistics[..., 1:].log()


def annealed_cross_entropy(
    hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int, temperature: Tensor, step_weight: Tensor,
    precision: str, hidden_needed: bool, weight_needed: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The mean over the rows that are not ignored: the per-row loss with 1 / their number as upstream gradient."""
    dtype = accumulate_dtype(hidden, weight)
    hidden, weight = hidden.to(dtype), weight.to(dtype)
    losses, statistics = annealed_cross_entropy_rows(
        hidden, weight, target, ignore_index, temperature, step_weight, precision
    )
    upstream = torch.ones_like(losses) / (target != ignore_index).sum().clamp(min=1)
    gradients = annealed_cross_entropy_rows_backward(
        upstream, statistics, hidden, weight, target, ignore_index, temperature, step_weight, precision,
        hidden_needed, weight_needed,
    )  # fmt: skip
    return (losses * upstream).sum(), *gradients


def annealed_cross_entropy_rows(
    hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int, temperature: Tensor, step_weight: Tensor,
    precision: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """w_t (lse z_rt - z_rt[y_r]) with z_rt = h_rt Eᵀ / τ_t, and the statistics of z_rt; 0 in ignored rows."""
    valid = target != ignore_index
    with ieee_products(hidden.device):
        h, e, _ = _operands(hidden, weight, precision, valid)
        tau, w = temperature.to(h), step_weight.to(h)
        column = target.masked_fill(~valid, 0)[:, None, None].expand(-1, h.shape[1], 1).long()
        losses, statistics = h.new_empty(h.shape[:2]), h.new_empty((*h.shape[:2], 2))
        for rows in _row_chunks(h.shape[0], h.shape[1] * e.shape[0]):
            z = h[rows] @ e.T / tau[:, None]
            statistics[rows] = _statistics(z)
            losses[rows] = -_log_softmax(z, statistics[rows]).gather(-1, column[rows]).squeeze(-1) * w
    return losses.masked_fill_(~valid[:, None], 0.0), statistics


def annealed_cross_entropy_rows_backward(
    upstream: Tensor, statistics: Tensor, hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int,
    temperature: Tensor, step_weight: Tensor, precision: str, hidden_needed: bool, weight_needed: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """dz = w upstream (softmax z - 1_y); dh = dz E / τ; dE = (dz / τ)ᵀ h."""
    valid = target != ignore_index
    with ieee_products(hidden.device):
        h, e, dtype = _operands(hidden, weight, precision, valid)
        grad_hidden, grad_weight = _gradient_buffers(h, e, hidden_needed, weight_needed)
        tau = temperature.to(h)
        coefficient = (upstream * step_weight.to(h)).masked_fill(~valid[:, None], 0.0) / tau
        for rows in _row_chunks(h.shape[0], h.shape[1] * e.shape[0]):
            z = h[rows] @ e.T / tau[:, None]
            p = _log_softmax(z, statistics[rows]).exp()
            one_hot = _one_hot(target[rows], valid[rows], e.shape[0], dtype)
            dlogits = as_operand(coefficient[rows, :, None] * (p - one_hot), precision, dtype)
            if hidden_needed:
                grad_hidden[rows] = dlogits @ e
            if weight_needed:
                grad_weight += dlogits.flatten(0, 1).T @ h[rows].flatten(0, 1)
    return grad_hidden.to(hidden.dtype), grad_weight.to(weight.dtype)


def ensemble_reasoning_loss(
    hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int, temperature: float, kl_weight: float,
    kl_form: str, precision: str, hidden_needed: bool, weight_needed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """CE(mean_t z_t) - λ KL. The logits of the mean state are the mean of the logits.

    Per state, u_i = Σ_j (log p_i - log p_j) over the other states j (official) or the later ones (paper), which takes
    O(T) sums; KL is Σ_i E_i[u_i], over T (T - 1) in the official form. Its gradient in z_i is
    p_i (u_i - E_i[u_i]), in the paper's form plus Σ_{k<i} (p_i - p_k).
    """
    valid = target != ignore_index
    steps, items = hidden.shape[1], weight.shape[0]
    count = valid.sum().clamp(min=1)
    paper = kl_form == "paper"
    pairs = 1 if paper else max(1, steps * (steps - 1))
    with ieee_products(hidden.device):
        h, e, dtype = _operands(hidden, weight, precision, valid)
        grad_hidden, grad_weight = _gradient_buffers(h, e, hidden_needed, weight_needed)
        cross_entropy, kl = h.new_zeros(()), h.new_zeros(())
        later = torch.arange(steps - 1, -1, -1, device=h.device, dtype=dtype)[:, None]
        for rows in _row_chunks(h.shape[0], steps * items):
            z = h[rows] @ e.T / temperature
            mean_log_p = z.mean(1, keepdim=True).log_softmax(-1)
            log_p = z.log_softmax(-1)
            p = log_p.exp()
            if paper:
                u = later * log_p - (log_p.flip(1).cumsum(1).flip(1) - log_p)
                spread = (p * u).sum(-1, keepdim=True)
                kl_gradient = p * (u - spread + later.flip(0)) - (p.cumsum(1) - p)
            else:
                u = steps * (log_p - log_p.mean(1, keepdim=True))
                spread = (p * u).sum(-1, keepdim=True)
                kl_gradient = p * (u - spread)
            one_hot = _one_hot(target[rows], valid[rows], items, dtype)
            cross_entropy -= (mean_log_p * one_hot).sum()
            kl += spread.squeeze(-1).sum(1).masked_fill(~valid[rows], 0.0).sum() / pairs
            dz = (mean_log_p.exp() - one_hot) / steps - (kl_weight / pairs) * kl_gradient
            dz = dz.masked_fill(~valid[rows, None, None], 0.0) / count
            dlogits = as_operand(dz / temperature, precision, dtype)
            if hidden_needed:
                grad_hidden[rows] = dlogits @ e
            if weight_needed:
                grad_weight += dlogits.flatten(0, 1).T @ h[rows].flatten(0, 1)
    cross_entropy, kl = cross_entropy / count, kl / count
    return cross_entropy - kl_weight * kl, cross_entropy, kl, grad_hidden, grad_weight


def _similarities(u: Tensor, v: Tensor, rows: slice, row_group: Tensor | None, temperature: float) -> Tensor:
    """u_rt . v_jt / τ as [rows, T, R], -inf for the other rows j of r's group."""
    s = torch.einsum("rtd,jtd->rtj", u[rows], v) / temperature
    if row_group is None:
        return s
    row = torch.arange(v.shape[0], device=v.device)
    masked = (row_group[rows, None] == row_group) & (row[rows, None] != row)
    return s.masked_fill(masked[:, None], float("-inf"))


def reasoning_info_nce(
    noised: Tensor, clean: Tensor, row_group: Tensor | None, temperature: float, precision: str,
    noised_needed: bool, clean_needed: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The mean over rows and steps: the per-row loss with 1 / (R T) as upstream gradient."""
    dtype = accumulate_dtype(noised, clean)
    noised, clean = noised.to(dtype), clean.to(dtype)
    losses, statistics = reasoning_info_nce_rows(noised, clean, row_group, temperature, precision)
    upstream = torch.full_like(losses, 1 / max(1, losses.numel()))
    gradients = reasoning_info_nce_rows_backward(
        upstream, statistics, noised, clean, row_group, temperature, precision, noised_needed, clean_needed
    )
    return (losses * upstream).sum(), *gradients


def reasoning_info_nce_rows(
    noised: Tensor, clean: Tensor, row_group: Tensor | None, temperature: float, precision: str
) -> tuple[Tensor, Tensor]:
    """lse_j s_t[r, j] - s_t[r, r], and the statistics of s_t[r]."""
    with ieee_products(noised.device):
        u, v, _ = _operands(noised, clean, precision)
        losses, statistics = u.new_empty(u.shape[:2]), u.new_empty((*u.shape[:2], 2))
        row = torch.arange(u.shape[0], device=u.device)[:, None, None].expand(-1, u.shape[1], 1)
        for rows in _row_chunks(u.shape[0], u.shape[1] * v.shape[0]):
            s = _similarities(u, v, rows, row_group, temperature)
            statistics[rows] = _statistics(s)
            losses[rows] = -_log_softmax(s, statistics[rows]).gather(-1, row[rows]).squeeze(-1)
    return losses, statistics


def reasoning_info_nce_rows_backward(
    upstream: Tensor, statistics: Tensor, noised: Tensor, clean: Tensor, row_group: Tensor | None, temperature: float,
    precision: str, noised_needed: bool, clean_needed: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """ds = upstream (softmax s - 1_r); du = ds v / τ; dv = (ds / τ)ᵀ u, step by step."""
    with ieee_products(noised.device):
        u, v, dtype = _operands(noised, clean, precision)
        grad_noised, grad_clean = _gradient_buffers(u, v, noised_needed, clean_needed)
        row = torch.arange(u.shape[0], device=u.device)
        for rows in _row_chunks(u.shape[0], u.shape[1] * v.shape[0]):
            p = _log_softmax(_similarities(u, v, rows, row_group, temperature), statistics[rows]).exp()
            one_hot = (row[rows, None, None] == row).to(dtype)
            ds = as_operand(upstream[rows, :, None] * (p - one_hot) / temperature, precision, dtype)
            if noised_needed:
                grad_noised[rows] = torch.einsum("rtj,jtd->rtd", ds, v)
            if clean_needed:
                grad_clean += torch.einsum("rtj,rtd->jtd", ds, u[rows])
    return grad_noised.to(noised.dtype), grad_clean.to(clean.dtype)


# --- Retrieval -------------------------------------------------------------------------------------------------------


def _score_chunks(
    hidden: Tensor, weight: Tensor, offsets: Tensor | None, items: Tensor | None, precision: str
) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """Rows, their scores of the whole catalogue [rows, N] and which of these are excluded (bool, or None)."""
    h, e, _ = _operands(hidden, weight, precision)
    for rows in _row_chunks(h.shape[0], e.shape[0]):
        scores = (h[rows] @ e.T).float()
        excluded = None
        if items is not None:
            excluded = torch.zeros_like(scores, dtype=torch.bool)
            if offsets is None:
                excluded[:, items.long()] = True
            else:
                first, last = int(offsets[rows][0]), int(offsets[rows.start : rows.stop + 1][-1])
                row = torch.repeat_interleave(offsets[rows.start : rows.stop + 1].diff())
                excluded[row, items[first:last].long()] = True
        yield rows, scores, excluded


def catalog_topk(
    hidden: Tensor, weight: Tensor, k: int, offsets: Tensor | None, items: Tensor | None, precision: str
) -> tuple[Tensor, Tensor]:
    """A stable sort, so that ties keep the order of the items. NaN and -inf are no candidates."""
    rows, kept = hidden.shape[0], min(k, weight.shape[0])
    best_scores = torch.full((rows, k), float("-inf"), device=hidden.device)
    best_items = torch.full((rows, k), -1, device=hidden.device)
    with ieee_products(hidden.device):
        for chunk, scores, excluded in _score_chunks(hidden, weight, offsets, items, precision):
            barred = scores.isnan() if excluded is None else excluded.logical_or_(scores.isnan())
            scores, order = scores.masked_fill(barred, float("-inf")).sort(dim=1, descending=True, stable=True)
            best_scores[chunk, :kept] = scores[:, :kept]
            best_items[chunk, :kept] = order[:, :kept]
    return best_scores, best_items.masked_fill_(best_scores == float("-inf"), -1)


def catalog_rank(
    hidden: Tensor, weight: Tensor, target: Tensor, offsets: Tensor | None, items: Tensor | None, precision: str
) -> Tensor:
    """Items above the target and half the ties; NaN when the target's score is."""
    ranks = torch.empty(hidden.shape[0], device=hidden.device)
    with ieee_products(hidden.device):
        for rows, scores, excluded in _score_chunks(hidden, weight, offsets, items, precision):
            column = target[rows, None].long()
            target_scores = scores.gather(1, column)
            half_counts = (scores > target_scores).int() + (scores >= target_scores).int()
            if excluded is not None:
                half_counts.masked_fill_(excluded, 0)
            half_counts.scatter_(1, column, 0)
            counted = half_counts.sum(1) / 2
            ranks[rows] = counted.masked_fill(target_scores.squeeze(1).isnan(), float("nan"))
    return ranks

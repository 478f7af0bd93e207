"""The native CPU backend: hands addresses, sizes and strides of dense tensors to rearec_kernels._C.

Functions have the names and arguments of the ops in `ops.py`; float32 and bfloat16. OpenMP threads follow
torch.set_num_threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from rearec_kernels import _C  # type: ignore[attr-defined]
from rearec_kernels.precision import as_operand, ieee_products

_DTYPES = {torch.float32: 0, torch.bfloat16: 1}

# --- Attention of reasoning tokens -----------------------------------------------------------------------------------


def _prefix(k: Tensor, v: Tensor) -> tuple[Any, ...]:
    return k.data_ptr(), v.data_ptr(), k.stride()[:3], v.stride()[:3], k.shape[1]


def _rows(start: Tensor, end: Tensor, row_prefix: Tensor, order: Tensor) -> tuple[int, ...]:
    return start.data_ptr(), end.data_ptr(), row_prefix.data_ptr(), order.data_ptr(), start.shape[0]


def _segments(token_k: Sequence[Tensor], token_v: Sequence[Tensor]) -> list[tuple[int, ...]]:
    segments: list[tuple[int, ...]] = []
    for k, v in zip(token_k, token_v, strict=True):
        assert k.stride() == v.stride()
        segments.append((k.data_ptr(), v.data_ptr(), k.stride(0), k.stride(1), k.shape[1]))
    return segments


def _shape(q: Tensor, prefix_k: Tensor, tokens: int, scale: float) -> tuple[Any, ...]:
    _, queries, heads, width = q.shape
    return _DTYPES[q.dtype], queries, heads, prefix_k.shape[2], width, tokens, scale, torch.get_num_threads()


def _seed(seed: Tensor | None) -> int:
    return 0 if seed is None else int(seed) & 0xFFFFFFFFFFFFFFFF


def attention(
    q: Tensor, token_k: Sequence[Tensor], token_v: Sequence[Tensor], prefix_k: Tensor, prefix_v: Tensor,
    carriers: Sequence[Tensor], start: Tensor, end: Tensor, row_prefix: Tensor, order: Tensor,
    scale: float, dropout_p: float, seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    rows, queries, heads, _ = q.shape
    tokens = sum(k.shape[1] for k in token_k)
    out = torch.empty_like(q)
    prefix_probs = torch.empty((rows, heads, queries, prefix_k.shape[1]), dtype=torch.float32)
    token_probs = torch.empty((rows, heads, queries, tokens), dtype=torch.float32)
    _C.attention_forward(
        _shape(q, prefix_k, tokens, scale),
        _prefix(prefix_k, prefix_v),
        _rows(start, end, row_prefix, order),
        _segments(token_k, token_v),
        dropout_p, _seed(seed), q.data_ptr(), 0, 0, out.data_ptr(), prefix_probs.data_ptr(), token_probs.data_ptr(),
    )  # fmt: skip
    return out, prefix_probs, token_probs


def attention_decode(
    q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor, token_k: Tensor, token_v: Tensor,
    start: Tensor, end: Tensor, row_prefix: Tensor, order: Tensor,
    length: int, scale: float, dropout_p: float, seed: Tensor | None,
) -> Tensor:  # fmt: skip
    tokens = length + q.shape[1]
    out = torch.empty_like(q)
    _C.attention_forward(
        _shape(q, prefix_k, tokens, scale),
        _prefix(prefix_k, prefix_v),
        _rows(start, end, row_prefix, order),
        [(token_k.data_ptr(), token_v.data_ptr(), token_k.stride(0), token_k.stride(1), tokens)],
        dropout_p, _seed(seed), q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), 0, 0,
    )  # fmt: skip
    return out


def attention_backward(
    grad_out: Tensor, q: Tensor, token_k: Sequence[Tensor], token_v: Sequence[Tensor], prefix_k: Tensor,
    prefix_v: Tensor, prefix_probs: Tensor, token_probs: Tensor, start: Tensor, end: Tensor, row_prefix: Tensor,
    order: Tensor, scale: float, dropout_p: float,
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:  # fmt: skip
    tokens = token_probs.shape[3]
    grad_q = torch.empty_like(q)
    dscores = torch.empty_like(prefix_probs)
    grad_k = torch.empty((q.shape[0], tokens, *prefix_k.shape[2:]), dtype=q.dtype)
    grad_v = torch.empty_like(grad_k)
    _C.attention_backward(
        _shape(q, prefix_k, tokens, scale),
        _prefix(prefix_k, prefix_v),
        _rows(start, end, row_prefix, order),
        _segments(token_k, token_v),
        dropout_p, q.data_ptr(), grad_out.data_ptr(), prefix_probs.data_ptr(), token_probs.data_ptr(),
        grad_q.data_ptr(), dscores.data_ptr(), grad_k.data_ptr(), grad_v.data_ptr(),
    )  # fmt: skip
    steps = [k.shape[1] for k in token_k]
    if len(steps) == 1:
        return grad_q, [grad_k], [grad_v], dscores
    # Outputs of an op must not share memory, so each step's part is its own tensor.
    return grad_q, _split(grad_k, steps), _split(grad_v, steps), dscores


def _split(x: Tensor, sizes: list[int]) -> list[Tensor]:
    return [part.clone(memory_format=torch.contiguous_format) for part in x.split(sizes, dim=1)]


def attention_prefix_gradient(
    dscores: Sequence[Tensor], probs: Sequence[Tensor], q: Sequence[Tensor], grad_out: Sequence[Tensor],
    prefix_k: Tensor, prefix_v: Tensor, start: Tensor, end: Tensor, row_prefix: Tensor, order: Tensor, offsets: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    grad_k = torch.empty(prefix_k.shape, dtype=prefix_k.dtype)
    grad_v = torch.empty(prefix_v.shape, dtype=prefix_v.dtype)
    steps = [
        (ds.data_ptr(), p.data_ptr(), x.data_ptr(), g.data_ptr(), x.shape[1])
        for ds, p, x, g in zip(dscores, probs, q, grad_out, strict=True)
    ]
    prefixes, slots, kv_heads, width = prefix_k.shape
    _C.attention_prefix_gradient(
        _DTYPES[prefix_k.dtype], steps, _rows(start, end, row_prefix, order), offsets.data_ptr(),
        prefixes, slots, q[0].shape[2], kv_heads, width, grad_k.data_ptr(), grad_v.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return grad_k, grad_v


# --- Losses ----------------------------------------------------------------------------------------------------------
#
# Row chunk by row chunk: one product writes the logits into scratch, one native pass turns them into statistics and,
# in place, into their gradient, and two products take that to the gradients of the operands. An efficient product wants
# some 200 rows; the scratch stays below the size of the table's gradient, or small.

_CHUNK_ROWS = (192, 384)
_SCRATCH_BYTES = 64 << 20
_WHOLE_MATRIX = 2**22


def _even_chunks(count: int, largest: int) -> Iterator[slice]:
    size = -(-count // -(-count // largest)) if count > 0 else 1
    return (slice(first, min(first + size, count)) for first in range(0, count, size))


def _part_of(rows: int, columns: int) -> int:
    """So many rows that a matrix that is not small is never there as a whole."""
    return max(1, rows if rows * columns <= _WHOLE_MATRIX else -(-rows // 2))


def _users_per_chunk(users: int, steps: int, items: int, width: int) -> int:
    rows = min(max(width, _CHUNK_ROWS[0]), _CHUNK_ROWS[1])
    budget = max(_SCRATCH_BYTES, 4 * items * width)
    return max(1, min(min(rows, budget // (4 * items)) // steps, _part_of(users, steps * items)))


def _padded(columns: int) -> int:
    return -(-columns // _C.LOGITS_PADDING) * _C.LOGITS_PADDING


def _operand(x: Tensor, precision: str) -> Tensor:
    return as_operand(x, precision, torch.float32)


def _softmax_chunks(
    rows: Tensor,
    table: Tensor,
    target: Tensor,
    steps: int,
    run: Callable[[tuple[int, ...], slice], None],
    grad_rows: Tensor | None = None,
    grad_table: Tensor | None = None,
) -> None:
    """rows [U * steps, d] against table [N, d]: `run` sees each chunk of logits with the users that it belongs to.

    The gradients, if any, are filled with what `run` left in place of the logits.
    """
    items, width = table.shape
    users = target.shape[0]
    chunks = list(_even_chunks(users, _users_per_chunk(users, steps, items, width)))
    scratch = torch.empty((chunks[0].stop * steps, _padded(items)), dtype=torch.float32)
    for chunk in chunks:
        part = rows[chunk.start * steps : chunk.stop * steps]
        logits = scratch[: part.shape[0], :items]
        torch.mm(part, table.t(), out=logits)
        address = target.data_ptr() + chunk.start * target.element_size()
        run((logits.data_ptr(), *logits.shape, logits.stride(0), steps, address, torch.get_num_threads()), chunk)
        if grad_rows is not None:
            torch.mm(logits, table, out=grad_rows[chunk.start * steps : chunk.stop * steps])
        if grad_table is not None:
            torch.addmm(grad_table, logits.t(), part, beta=int(chunk.start > 0), out=grad_table)


class _Counted:
    """The rows of a loss over the catalogue that are not ignored, as operands, and where their gradients go."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int, precision: str, needed: Sequence[bool]
    ) -> None:
        counted = target != ignore_index
        self.all = bool(counted.all())
        self.index = counted.nonzero().squeeze(1)
        self.shape = hidden.shape
        self.target = target[self.index].long()
        self.users, self.steps = self.target.shape[0], hidden.shape[1]
        kept = hidden if self.all else hidden[self.index]
        self.rows = _operand(kept, precision).reshape(-1, hidden.shape[2]).contiguous()
        self.table = _operand(weight, precision)
        self.grad_rows = torch.empty_like(self.rows) if needed[0] else None
        self.grad_table = torch.empty(weight.shape, dtype=torch.float32) if needed[1] else None

    def chunks(self, run: Callable[[tuple[int, ...], slice], None]) -> None:
        if self.users > 0:
            with ieee_products(self.rows.device):
                _softmax_chunks(self.rows, self.table, self.target, self.steps, run, self.grad_rows, self.grad_table)
        elif self.grad_table is not None:
            self.grad_table.zero_()

    def scatter(self, x: Tensor) -> Tensor:
        """[counted rows, ...] -> [R, ...], 0 in ignored rows."""
        return x if self.all else x.new_zeros((self.shape[0], *x.shape[1:])).index_copy_(0, self.index, x)

    def gradients(self) -> tuple[Tensor, Tensor]:
        nothing = torch.empty(0, dtype=torch.float32)
        grad_hidden = nothing if self.grad_rows is None else self.scatter(self.grad_rows.view(-1, *self.shape[1:]))
        return grad_hidden, nothing.clone() if self.grad_table is None else self.grad_table


def _slice_address(x: Tensor, chunk: slice) -> int:
    return x.data_ptr() + chunk.start * x.stride(0) * x.element_size()


def annealed_cross_entropy(
    hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int, temperature: Tensor, step_weight: Tensor,
    precision: str, hidden_needed: bool, weight_needed: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    needed = (hidden_needed, weight_needed)
    counted = _Counted(hidden, weight, target, ignore_index, precision, needed)
    coefficient = (step_weight / max(1, counted.users)).float().expand(counted.users, -1).contiguous()
    kernel = _C.cross_entropy if any(needed) else _C.cross_entropy_statistics
    losses, _ = _cross_entropy(counted, kernel, temperature, coefficient, precision)
    loss = (losses.sum(0) * step_weight).sum() / max(1, counted.users)
    return loss.float(), *counted.gradients()


def annealed_cross_entropy_rows(
    hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int, temperature: Tensor, step_weight: Tensor,
    precision: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    counted = _Counted(hidden, weight, target, ignore_index, precision, (False, False))
    losses, statistics = _cross_entropy(counted, _C.cross_entropy_statistics, temperature, None, precision)
    return counted.scatter((losses * step_weight).float()), counted.scatter(statistics)


def annealed_cross_entropy_rows_backward(
    upstream: Tensor, statistics: Tensor, hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int,
    temperature: Tensor, step_weight: Tensor, precision: str, hidden_needed: bool, weight_needed: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    counted = _Counted(hidden, weight, target, ignore_index, precision, (hidden_needed, weight_needed))
    coefficient = (upstream[counted.index] * step_weight).float().contiguous()
    kept = statistics[counted.index]
    _cross_entropy(counted, _C.cross_entropy_gradient, temperature, coefficient, precision, kept)
    grad_hidden, grad_weight = counted.gradients()
    return grad_hidden.to(hidden.dtype), grad_weight.to(weight.dtype)


def _cross_entropy(
    counted: _Counted, kernel: Callable[..., None], temperature: Tensor, coefficient: Tensor | None, precision: str,
    statistics: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The kernel over all chunks; losses [users, T] in float64 and statistics [users, T, 2]."""
    kept = _CrossEntropyStatistics(counted.users, counted.steps, statistics)
    inverse_temperature = temperature.reciprocal().float()

    def run(logits: tuple[int, ...], chunk: slice) -> None:
        kernel(logits, inverse_temperature.data_ptr(), *kept.addresses(chunk, coefficient), precision == "bf16")

    counted.chunks(run)
    return kept.losses(), kept.stacked()


class _CrossEntropyStatistics:
    """Per row: the largest logit, the sum of exponentials relative to it, the target's logit relative to it."""

    def __init__(self, users: int, steps: int, known: Tensor | None = None) -> None:
        self.shift, self.norm, self.target_logit = torch.empty((3, users, steps), dtype=torch.float32)
        if known is not None:
            self.shift.copy_(known[..., 0])
            self.norm.copy_(known[..., 1])

    def addresses(self, chunk: slice, coefficient: Tensor | None) -> tuple[int, ...]:
        statistics = (self.shift, self.norm, self.target_logit)
        last = 0 if coefficient is None else _slice_address(coefficient, chunk)
        return *(_slice_address(x, chunk) for x in statistics), last

    def losses(self) -> Tensor:
        return self.norm.double().log() - self.target_logit

    def stacked(self) -> Tensor:
        return torch.stack([self.shift, self.norm], dim=-1)


def ensemble_reasoning_loss(
    hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int, temperature: float, kl_weight: float,
    kl_form: str, precision: str, hidden_needed: bool, weight_needed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    needed = (hidden_needed, weight_needed)
    steps, paper = hidden.shape[1], kl_form == "paper"
    if steps > _C.MAX_ENSEMBLE_STEPS:
        raise ValueError(
            f"ensemble_reasoning_loss: the cpu backend takes up to {_C.MAX_ENSEMBLE_STEPS} states per row, got "
            f"hidden {list(hidden.shape)}"
        )
    counted = _Counted(hidden, weight, target, ignore_index, precision, needed)
    users, pairs = max(1, counted.users), 1 if paper else max(1, steps * (steps - 1))
    # Of the T states and then of their mean.
    shift, norm = torch.empty((2, counted.users, steps + 1), dtype=torch.float32)
    spread = torch.empty((counted.users, steps), dtype=torch.float32)
    target_logit = torch.empty(counted.users, dtype=torch.float32)
    kernel = _C.ensemble if any(needed) else _C.ensemble_statistics

    def run(logits: tuple[int, ...], chunk: slice) -> None:
        addresses = (_slice_address(x, chunk) for x in (shift, norm, spread, target_logit))
        kernel(logits, 1 / temperature, paper, *addresses, 1 / users, -kl_weight / (users * pairs), precision == "bf16")

    counted.chunks(run)
    log_norm = norm.double().log()
    cross_entropy = (log_norm[:, steps] - target_logit).sum() / users
    kl = (spread / norm[:, :steps].double()).sum() / temperature
    if paper:
        # Differences of logarithms of sums; their coefficients add up to 0, so what is common to all states cancels.
        relative = (shift[:, :steps] - shift[:, :1]).double() / temperature + log_norm[:, :steps]
        kl = kl - (relative * torch.arange(steps - 1, -steps, -2)).sum()
    kl = kl / (users * pairs)
    loss = cross_entropy - kl_weight * kl
    return loss.float(), cross_entropy.float(), kl.float(), *counted.gradients()


def reasoning_info_nce(
    noised: Tensor, clean: Tensor, row_group: Tensor | None, temperature: float, precision: str,
    noised_needed: bool, clean_needed: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    needed = (noised_needed, clean_needed)
    count = max(1, noised.shape[0] * noised.shape[1])
    coefficient = torch.full((noised.shape[1], noised.shape[0]), 1 / count, dtype=torch.float32)
    kernel = _C.cross_entropy if any(needed) else _C.cross_entropy_statistics
    losses, _, gradients = _info_nce(noised, clean, row_group, temperature, precision, needed, kernel, coefficient, None)
    return (losses.sum() / count).float(), *gradients


def reasoning_info_nce_rows(
    noised: Tensor, clean: Tensor, row_group: Tensor | None, temperature: float, precision: str
) -> tuple[Tensor, Tensor]:
    losses, statistics, _ = _info_nce(
        noised, clean, row_group, temperature, precision, (False, False), _C.cross_entropy_statistics, None, None
    )
    return losses.t().float().contiguous(), statistics.transpose(0, 1).contiguous()


def reasoning_info_nce_rows_backward(
    upstream: Tensor, statistics: Tensor, noised: Tensor, clean: Tensor, row_group: Tensor | None, temperature: float,
    precision: str, noised_needed: bool, clean_needed: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    coefficient = upstream.t().float().contiguous()
    kept = statistics.transpose(0, 1).contiguous()
    needed = (noised_needed, clean_needed)
    _, _, (grad_noised, grad_clean) = _info_nce(
        noised, clean, row_group, temperature, precision, needed, _C.cross_entropy_gradient, coefficient, kept
    )
    return grad_noised.to(noised.dtype), grad_clean.to(clean.dtype)


def _dense_groups(row_group: Tensor) -> Tensor:
    """Any group ids as int32 ones, padded like a row of logits."""
    groups = torch.zeros(_padded(row_group.shape[0]), dtype=torch.int32)
    groups[: row_group.shape[0]] = row_group.unique(return_inverse=True)[1]
    return groups


def _info_nce(
    noised: Tensor, clean: Tensor, row_group: Tensor | None, temperature: float, precision: str,
    needed: Sequence[bool], kernel: Callable[..., None], coefficient: Tensor | None, statistics: Tensor | None,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:  # fmt: skip
    """Step by step a cross-entropy with the clean states as table; losses [T, R], statistics [T, R, 2], gradients."""
    rows, steps, _ = noised.shape
    u, v = _operand(noised, precision).contiguous(), _operand(clean, precision).contiguous()
    grad_u, grad_v = (torch.empty_like(x) if need else None for x, need in zip((u, v), needed, strict=True))
    own_column = torch.arange(rows)
    group = None if row_group is None else _dense_groups(row_group)
    inverse_temperature = torch.full((1,), 1 / temperature, dtype=torch.float32)
    losses = torch.zeros((steps, rows), dtype=torch.float64)
    kept_statistics = torch.zeros((steps, rows, 2), dtype=torch.float32)
    with ieee_products(u.device):
        for t in range(steps if rows > 0 else 0):
            kept = _CrossEntropyStatistics(rows, 1, None if statistics is None else statistics[t, :, None])

            def run(logits: tuple[int, ...], chunk: slice, t: int = t, kept: _CrossEntropyStatistics = kept) -> None:
                if group is not None:
                    _C.mask_groups(logits, group.data_ptr())
                scale = None if coefficient is None else coefficient[t]
                kernel(logits, inverse_temperature.data_ptr(), *kept.addresses(chunk, scale), precision == "bf16")

            grad_u_step, grad_v_step = (None if g is None else g[:, t] for g in (grad_u, grad_v))
            _softmax_chunks(u[:, t], v[:, t], own_column, 1, run, grad_u_step, grad_v_step)
            losses[t], kept_statistics[t] = kept.losses().squeeze(1), kept.stacked().squeeze(1)
    nothing = (torch.empty(0, dtype=torch.float32) for _ in range(2))
    gradients = (g if g is not None else next(nothing) for g in (grad_u, grad_v))
    return losses, kept_statistics, (next(gradients), next(gradients))


# --- Retrieval -------------------------------------------------------------------------------------------------------

_TOPK_SCORES = 2**20  # at a time: they stay in the cache
_TOPK_ROWS = 512
_RANK_SCORES = 2**24
_RANK_ROWS = (64, 192)


class _Scores:
    """Scores of a chunk of rows against blocks of the table, in one scratch that all blocks share.

    All products of a chunk have the same shape, the last one overlaps the one before by a few items: a score then does
    not depend on where in the catalogue its item is.
    """

    def __init__(self, weight: Tensor, largest_rows: int, columns: int, precision: str) -> None:
        self.weight, self.precision = weight, precision
        self.count = -(-weight.shape[0] // columns)
        self.columns = -(-weight.shape[0] // self.count)
        self.scratch = torch.empty(largest_rows * self.columns, dtype=torch.float32)
        as_it_is = weight.dtype == torch.float32 and precision == "fp32"
        self.converted = None if as_it_is else torch.empty((self.columns, weight.shape[1]), dtype=torch.float32)

    def block(self, rows: Tensor, index: int) -> tuple[Tensor, int]:
        """The scores of the items [index * columns, (index + 1) * columns), and the first of them."""
        first = index * self.columns
        start = min(first, self.weight.shape[0] - self.columns)
        table = self.weight[start : start + self.columns]
        if self.converted is not None:
            table = self.converted.copy_(_operand(table, self.precision))
        scores = self.scratch[: rows.shape[0] * self.columns].view(rows.shape[0], self.columns)
        torch.mm(rows, table.t(), out=scores)
        return scores[:, first - start :], first


def _score_arguments(scores: Tensor, first: int) -> tuple[int, ...]:
    return scores.data_ptr(), *scores.shape, scores.stride(0), first, torch.get_num_threads()


class _Exclusion:
    """What `exclude` bars, ascending and without repetition as the kernels want it."""

    def __init__(self, offsets: Tensor | None, items: Tensor | None, rows: int, catalog: int) -> None:
        self.begin = self.end = None
        if items is None:
            self.items = torch.empty(0, dtype=torch.int64)
        elif offsets is None:
            self.items = items.long().unique()
        else:
            row = torch.repeat_interleave(offsets.diff())
            keys = (row * catalog + items.long()).unique()
            self.items = keys % catalog
            bounds = torch.searchsorted(keys, torch.arange(rows + 1) * catalog)
            self.begin, self.end = bounds[:-1].contiguous(), bounds[1:].contiguous()

    def reorder(self, order: Tensor) -> None:
        if self.begin is not None and self.end is not None:
            self.begin, self.end = self.begin[order], self.end[order]

    def of_rows(self, rows: slice) -> tuple[int, int, int, int]:
        bounds = (0 if x is None else _slice_address(x, rows) for x in (self.begin, self.end))
        return *bounds, self.items.data_ptr(), self.items.shape[0]  # type: ignore[return-value]


def catalog_topk(
    hidden: Tensor, weight: Tensor, k: int, offsets: Tensor | None, items: Tensor | None, precision: str
) -> tuple[Tensor, Tensor]:
    rows, catalog = hidden.shape[0], weight.shape[0]
    h = _operand(hidden, precision).contiguous()
    exclusion = _Exclusion(offsets, items, rows, catalog)
    readable = weight.dtype == torch.bfloat16 or (weight.dtype == torch.float32 and precision == "fp32")
    if rows <= _C.MAX_DIRECT_ROWS and readable and weight.stride(1) == 1:
        return _topk_direct(h, weight, k, exclusion)
    best_scores = torch.full((rows, k), float("-inf"), dtype=torch.float32)
    best_items = torch.full((rows, k), -1, dtype=torch.int64)
    chunks = list(_even_chunks(rows, _TOPK_ROWS))
    largest = max((chunk.stop - chunk.start for chunk in chunks), default=1)
    scores = _Scores(weight, largest, min(max(_TOPK_SCORES // largest, 1), _part_of(catalog, largest)), precision)
    with ieee_products(hidden.device):
        for chunk in chunks:
            best = (_slice_address(best_scores, chunk), _slice_address(best_items, chunk), chunk.stop - chunk.start, k)
            for index in range(scores.count):
                _C.topk(_score_arguments(*scores.block(h[chunk], index)), best, exclusion.of_rows(chunk))
            _C.topk_sort(best)
    return best_scores, best_items


def _topk_direct(h: Tensor, weight: Tensor, k: int, exclusion: _Exclusion) -> tuple[Tensor, Tensor]:
    """A few rows: reading the table is all the work, so scores and heaps in one pass over it."""
    rows, parts = h.shape[0], torch.get_num_threads()
    best_scores = torch.full((parts, rows, k), float("-inf"), dtype=torch.float32)
    best_items = torch.full((parts, rows, k), -1, dtype=torch.int64)
    best = (best_scores.data_ptr(), best_items.data_ptr(), rows, k)
    table = (weight.data_ptr(), weight.dtype == torch.bfloat16, *weight.shape, weight.stride(0))
    if rows > 0:
        _C.topk_direct(h.data_ptr(), *table, best, parts, exclusion.of_rows(slice(0, rows)))
        _C.topk_sort(best)
    return best_scores[0].clone(), best_items[0].clone()


def catalog_rank(
    hidden: Tensor, weight: Tensor, target: Tensor, offsets: Tensor | None, items: Tensor | None, precision: str
) -> Tensor:
    rows, catalog = hidden.shape[0], weight.shape[0]
    # Rows with targets in the same block together: a chunk's target scores come first, from the very blocks that are
    # then counted, and a chunk of rows whose targets share one block needs no product twice.
    sorted_target, order = target.long().sort()
    h = _operand(hidden, precision)[order].contiguous()
    exclusion = _Exclusion(offsets, items, rows, catalog)
    exclusion.reorder(order)
    half_counts = torch.zeros(rows, dtype=torch.int64)
    target_scores = torch.empty(rows, dtype=torch.float32)
    largest = min(max(_RANK_SCORES // catalog, _RANK_ROWS[0]), _RANK_ROWS[1], _part_of(rows, catalog))
    scores = _Scores(weight, largest, _RANK_SCORES // largest, precision)
    with ieee_products(hidden.device):
        for chunk in _even_chunks(rows, largest):
            addresses = [_slice_address(x, chunk) for x in (sorted_target, target_scores, half_counts)]
            item = sorted_target[chunk]
            own_block = item // scores.columns
            own = own_block.unique().tolist()
            others = [index for index in range(scores.count) if index != own[-1]]
            for position, index in enumerate(own + others):
                block, first = scores.block(h[chunk], index)
                if position < len(own):
                    here = own_block == index
                    target_scores[chunk][here] = block[here, item[here] - first]
                if position >= len(own) - 1:
                    _C.rank(_score_arguments(block, first), *addresses, exclusion.of_rows(chunk))
    ranks = (half_counts / 2).float().masked_fill_(target_scores.isnan(), float("nan"))
    return torch.empty_like(ranks).index_copy_(0, order, ranks)

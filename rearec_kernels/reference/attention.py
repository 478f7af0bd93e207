"""Attention of reasoning tokens in plain PyTorch, and the dropout stream that every backend shares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rearec_kernels.addresses import dropout_threshold
from rearec_kernels.precision import ieee_products


def philox(seed: Tensor, *counter: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four words of Philox4x32-10 (Salmon et al., SC'11) as int64 in [0, 2^32), key = seed; arguments broadcast."""
    low = 0xFFFFFFFF

    def multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
        # 32 x 32 -> 64 bits in int64 without overflow: b in two halves of 16 bits.
        high, rest = a * (b >> 16), a * (b & 0xFFFF)
        carry = (high & 0xFFFF) * 0x10000 + rest
        return ((high >> 16) + (carry >> 32)) & low, carry & low

    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    k0, k1 = seed & low, (seed >> 32) & low
    for _ in range(10):
        high0, low0 = multiply(0xD2511F53, c0)
        high1, low1 = multiply(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return c0, c1, c2, c3


def philox_word(seed: Tensor, slot: Tensor, token: Tensor, head: Tensor, row: Tensor) -> Tensor:
    """The first word for the counter (slot, token, head, row)."""
    return philox(seed, slot, token, head, row)[0]


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
    return word < dropout_threshold(dropout_p)


def _group_heads(x: Tensor, kv_heads: int) -> Tensor:
    """[R, Q, H, D] -> [R, Hkv, H / Hkv, Q, D]: query head h reads K/V head h // (H / Hkv)."""
    return x.unflatten(2, (kv_heads, -1)).permute(0, 2, 3, 1, 4)


def _ungroup_heads(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2, 4).flatten(2, 3)


def _accumulate(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _product(equation: str, a: Tensor, b: Tensor) -> Tensor:
    """torch.einsum in the operands' own precision, also under autocast."""
    with ieee_products(a.device):
        return torch.einsum(equation, a, b)


def _seen(prefix: Tensor, tokens: Sequence[Tensor], row_prefix: Tensor, visible: Tensor) -> Tensor:
    """Each row's K or V, prefix then tokens, 0 where a query does not see them: [R, Hkv, Q, C + tokens, D].

    What is not seen may be anything: 0 times NaN is not 0.
    """
    vectors = torch.cat([_accumulate(prefix)[row_prefix], *map(_accumulate, tokens)], dim=1).transpose(1, 2)
    return vectors.unsqueeze(2).masked_fill(~visible[..., None], 0.0)


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
    scale: float, dropout_p: float, seed: Tensor | None, keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """softmax(scale q Kᵀ) V over the row's slots and tokens; with `keep` the probabilities, negative where dropped."""
    rows, queries, heads, _ = q.shape
    kv_heads, slots = prefix_k.shape[2], prefix_k.shape[1]
    tokens = sum(x.shape[1] for x in token_k)
    visible = _visible(queries, tokens, slots, start, end)
    k, v = _seen(prefix_k, token_k, row_prefix, visible), _seen(prefix_v, token_v, row_prefix, visible)
    scores = _product("rgnqd,rgqkd->rgnqk", _group_heads(_accumulate(q), kv_heads), k).flatten(1, 2) * scale
    probs = scores.masked_fill(~visible, float("-inf")).softmax(-1)
    kept = probs
    if dropout_p > 0:
        assert seed is not None
        dropped = _dropped(seed, dropout_p, rows, heads, queries, slots, tokens)
        kept = probs.masked_fill(dropped, 0.0) / (1 - dropout_p)
        probs = torch.where(dropped, -probs, probs)
    out = _ungroup_heads(_product("rgnqk,rgqkd->rgnqd", kept.unflatten(1, (kv_heads, -1)), v)).to(q.dtype)
    if not keep:
        nothing = probs.new_empty((0, heads, queries, 0))
        return out.contiguous(), nothing, nothing.clone()
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
    return attention(q, *visible, prefix_k, prefix_v, (), *rows, scale, dropout_p, seed, False)[0]


def attention_backward(
    grad_out: Tensor, q: Tensor, token_k: Sequence[Tensor], token_v: Sequence[Tensor], prefix_k: Tensor,
    prefix_v: Tensor, prefix_probs: Tensor, token_probs: Tensor, start: Tensor, end: Tensor, row_prefix: Tensor,
    order: Tensor, scale: float, dropout_p: float,
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:  # fmt: skip
    """ds = p (dp - Σ p dp); dq = Σ ds k; dk = ds q and dv = p do for the tokens; ds of the prefix slots."""
    kv_heads, slots = prefix_k.shape[2], prefix_k.shape[1]
    visible = _visible(q.shape[1], token_probs.shape[-1], slots, start, end)
    k, v = _seen(prefix_k, token_k, row_prefix, visible), _seen(prefix_v, token_v, row_prefix, visible)
    signed = torch.cat([prefix_probs, token_probs], dim=-1).unflatten(1, (kv_heads, -1))
    keep = (~signed.signbit()).to(signed.dtype) / (1 - dropout_p)
    probs = signed.abs()
    grouped_q, grouped_grad = (_group_heads(_accumulate(x), kv_heads) for x in (q, grad_out))
    dprobs = _product("rgnqd,rgqkd->rgnqk", grouped_grad, v) * keep
    dscores = probs * (dprobs - (probs * dprobs).sum(-1, keepdim=True)) * scale
    dscores = dscores.masked_fill(~visible[:, None], 0.0)
    grad_q = _ungroup_heads(_product("rgnqk,rgqkd->rgnqd", dscores, k)).to(q.dtype)
    unseen = ~visible[:, 0, :, slots:, None, None]

    def over_queries(weights: Tensor, vectors: Tensor) -> Tensor:
        return _product("rgnqk,rgnqd->rqkgd", weights[..., slots:], vectors).masked_fill(unseen, 0.0).sum(1)

    grad_k, grad_v = over_queries(dscores, grouped_q), over_queries(probs * keep, grouped_grad)
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
    slot = torch.arange(prefix_k.shape[1], device=start.device)
    unseen = ((slot < start[:, None]) | (slot >= end[:, None]))[:, :, None, None]

    def total(weights: Sequence[Tensor], vectors: Sequence[Tensor], prefix: Tensor) -> Tensor:
        result = torch.zeros(prefix.shape, dtype=dscores[0].dtype, device=prefix.device)
        for w, x in zip(weights, vectors, strict=True):
            grouped = (w.unflatten(1, (kv_heads, -1)), _group_heads(_accumulate(x), kv_heads))
            result.index_add_(0, row_prefix, _product("rgnqc,rgnqd->rcgd", *grouped).masked_fill(unseen, 0.0))
        return result.to(prefix.dtype)

    kept = [p.masked_fill(p.signbit(), 0.0) for p in probs]
    return total(dscores, q, prefix_k), total(kept, grad_out, prefix_v)

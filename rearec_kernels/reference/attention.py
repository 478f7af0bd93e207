"""Attention of reasoning tokens in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rearec_kernels.dropout import dropout_threshold
from rearec_kernels.ops.arguments import Attention, AttentionBackward, AttentionDecode, MaskRows, PrefixGradient, Rows
from rearec_kernels.ops.attention import appended
from rearec_kernels.precision import ieee_products
from rearec_kernels.reference.philox import philox_word


def _dropped(seed: Tensor, dropout_p: float, row: Tensor, heads: int, queries: int, slots: int, tokens: int) -> Tensor:
    """bool [R, heads, queries, slots + tokens]: what dropout drops of the rows numbered `row`, [R].

    The last `queries` tokens are the queries.
    """

    def index(count: int, first: int = 0) -> Tensor:
        return torch.arange(first, first + count, device=seed.device)

    word = philox_word(
        seed,
        index(slots + tokens),
        index(queries, tokens - queries)[:, None],
        index(heads)[:, None, None],
        (row & 0xFFFFFFFF)[:, None, None, None],
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


def _visible(queries: int, tokens: int, slots: int, rows: Rows) -> Tensor:
    """bool [R, 1, Q, C + tokens]: slots in [start, end), and tokens up to the query's own."""
    slot = torch.arange(slots, device=rows.start.device)
    token = torch.arange(tokens, device=rows.start.device)
    in_prefix = (slot >= rows.start[:, None]) & (slot < rows.end[:, None])
    causal = token <= token[tokens - queries :, None]
    count = rows.start.shape[0]
    return torch.cat([in_prefix[:, None].expand(count, queries, slots), causal.expand(count, -1, -1)], dim=-1)[:, None]


def attention(args: Attention, rows: Rows, mask_rows: MaskRows) -> tuple[Tensor, Tensor, Tensor]:
    """softmax(scale q Kᵀ) V over the row's slots and tokens; with `keep` the probabilities, negative where dropped."""
    count, queries, heads, _ = args.q.shape
    kv_heads, slots = args.prefix_k.shape[2], args.prefix_k.shape[1]
    tokens = sum(x.shape[1] for x in args.token_k)
    visible = _visible(queries, tokens, slots, rows)
    k = _seen(args.prefix_k, args.token_k, rows.row_prefix, visible)
    v = _seen(args.prefix_v, args.token_v, rows.row_prefix, visible)
    q = _group_heads(_accumulate(args.q), kv_heads)
    scores = _product("rgnqd,rgqkd->rgnqk", q, k).flatten(1, 2) * args.scale
    probs = scores.masked_fill(~visible, float("-inf")).softmax(-1)
    kept = probs
    if args.dropout_p > 0:
        assert args.seed is not None
        row = mask_rows.number(torch.arange(count, device=args.seed.device))
        dropped = _dropped(args.seed, args.dropout_p, row, heads, queries, slots, tokens)
        kept = probs.masked_fill(dropped, 0.0) / (1 - args.dropout_p)
        probs = torch.where(dropped, -probs, probs)
    out = _ungroup_heads(_product("rgnqk,rgqkd->rgnqd", kept.unflatten(1, (kv_heads, -1)), v)).to(args.q.dtype)
    if not args.keep:
        empty = (0, heads, queries, 0)
        return out.contiguous(), probs.new_empty(empty), probs.new_empty(empty)
    return out.contiguous(), probs[..., :slots].contiguous(), probs[..., slots:].contiguous()


def attention_decode(args: AttentionDecode, rows: Rows, mask_rows: MaskRows) -> Tensor:
    out, _, _ = attention(appended(args), rows, mask_rows)
    return out


def attention_backward(args: AttentionBackward, rows: Rows) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    """ds = p (dp - Σ p dp); dq = Σ ds k; dk = ds q and dv = p do for the tokens; ds of the prefix slots."""
    kv_heads, slots = args.prefix_k.shape[2], args.prefix_k.shape[1]
    visible = _visible(args.q.shape[1], args.token_probs.shape[-1], slots, rows)
    k = _seen(args.prefix_k, args.token_k, rows.row_prefix, visible)
    v = _seen(args.prefix_v, args.token_v, rows.row_prefix, visible)
    signed = torch.cat([args.prefix_probs, args.token_probs], dim=-1).unflatten(1, (kv_heads, -1))
    keep = (~signed.signbit()).to(signed.dtype) / (1 - args.dropout_p)
    probs = signed.abs()
    q, grad_out = (_group_heads(_accumulate(x), kv_heads) for x in (args.q, args.grad_out))
    dprobs = _product("rgnqd,rgqkd->rgnqk", grad_out, v) * keep
    dscores = probs * (dprobs - (probs * dprobs).sum(-1, keepdim=True)) * args.scale
    dscores = dscores.masked_fill(~visible[:, None], 0.0)
    grad_q = _ungroup_heads(_product("rgnqk,rgqkd->rgnqd", dscores, k)).to(args.q.dtype)
    unseen = ~visible[:, 0, :, slots:, None, None]

    def over_queries(weights: Tensor, vectors: Tensor) -> Tensor:
        return _product("rgnqk,rgnqd->rqkgd", weights[..., slots:], vectors).masked_fill(unseen, 0.0).sum(1)

    grad_k, grad_v = over_queries(dscores, q), over_queries(probs * keep, grad_out)
    steps = [t.shape[1] for t in args.token_k]
    dtype = args.prefix_k.dtype
    return (
        grad_q.contiguous(),
        [g.to(dtype, memory_format=torch.contiguous_format, copy=True) for g in grad_k.split(steps, dim=1)],
        [g.to(dtype, memory_format=torch.contiguous_format, copy=True) for g in grad_v.split(steps, dim=1)],
        dscores[..., :slots].flatten(1, 2).contiguous(),
    )


def attention_prefix_gradient(args: PrefixGradient, rows: Rows) -> tuple[Tensor, Tensor]:
    """dK = Σ ds q and dV = Σ p do over the steps, their queries and the rows of each prefix."""
    kv_heads = args.prefix_k.shape[2]
    slot = torch.arange(args.prefix_k.shape[1], device=rows.start.device)
    unseen = ((slot < rows.start[:, None]) | (slot >= rows.end[:, None]))[:, :, None, None]

    def total(weights: Sequence[Tensor], vectors: Sequence[Tensor], prefix: Tensor) -> Tensor:
        result = torch.zeros(prefix.shape, dtype=args.dscores[0].dtype, device=prefix.device)
        for w, x in zip(weights, vectors, strict=True):
            grouped = (w.unflatten(1, (kv_heads, -1)), _group_heads(_accumulate(x), kv_heads))
            result.index_add_(0, rows.row_prefix, _product("rgnqc,rgnqd->rcgd", *grouped).masked_fill(unseen, 0.0))
        return result.to(prefix.dtype)

    kept = [p.masked_fill(p.signbit(), 0.0) for p in args.probs]
    return total(args.dscores, args.q, args.prefix_k), total(kept, args.grad_out, args.prefix_v)

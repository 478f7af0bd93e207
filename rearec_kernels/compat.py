"""Other libraries' signatures on our kernels, for code that already calls them."""

from __future__ import annotations

import torch
from torch import Tensor

from rearec_kernels.arguments import as_int, describe
from rearec_kernels.attention import cached_reason_attention
from rearec_kernels.cache import ReasoningCache
from rearec_kernels.rows import PrefixRows

_NAME = "flash_attn_with_kvcache"


def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    cache_seqlens: int | Tensor | None = None,
    cache_batch_idx: Tensor | None = None,
    cache_leftpad: Tensor | None = None,
    block_table: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: Tensor | None = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
) -> Tensor:
    """FlashAttention's `flash_attn_with_kvcache` for decoding without gradients; CPUs and float32 included.

    Supported: appending k and v in place at cache_seqlens, cache_batch_idx, cache_leftpad, grouped heads,
    softmax_scale, and causal (aligned to the bottom right, as there) or not. `num_splits`, which tunes
    FlashAttention's kernel, and `rotary_interleaved`, which matters with rotary embeddings only, have no effect. Not
    supported, and refused: rotary embeddings, a block table, windows, softcap, ALiBi, return_softmax_lse, inputs that
    require gradients.

    Args:
        q: [B, Q, H, D].
        k_cache, v_cache: [B', L, Hkv, D], written in place when k and v are given.
        k, v: [B, Q', Hkv, D], appended at cache_seqlens[b].
        cache_seqlens: keys in the cache before the call, an int or int32 [B]; default L (0 with k and v).
        cache_batch_idx: int32 [B], which cache entry belongs to batch entry b; default b.
        cache_leftpad: int32 [B], where the keys of batch entry b begin; default 0.

    Returns:
        [B, Q, H, D]; zeros for a query that sees no key.

    Raises:
        ValueError: an argument is not supported, or shapes and values do not fit; TypeError: not a tensor.

    Examples:
        >>> k_cache, v_cache = torch.zeros(1, 8, 1, 4), torch.ones(1, 8, 1, 4)  # room for 8 keys, 3 of them are there
        >>> q, k, v = torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 1, 4), 5 * torch.ones(1, 1, 1, 4)
        >>> flash_attn_with_kvcache(q, k_cache, v_cache, k, v, cache_seqlens=3, causal=True)[0, 0]
        tensor([[2., 2., 2., 2.],
                [2., 2., 2., 2.]])
        >>> v_cache[0, :5, 0, 0]
        tensor([1., 1., 1., 5., 1.])
    """
    refused = {
        "rotary_cos": rotary_cos is not None,
        "rotary_sin": rotary_sin is not None,
        "block_table": block_table is not None,
        "window_size": tuple(window_size) != (-1, -1),
        "softcap": softcap != 0.0,
        "alibi_slopes": alibi_slopes is not None,
        "return_softmax_lse": return_softmax_lse,
    }
    for name, given in refused.items():
        if given:
            raise ValueError(f"{_NAME}: {name} is not supported by rearec_kernels")
    for name, x in (("q", q), ("k_cache", k_cache), ("v_cache", v_cache)):
        if not isinstance(x, Tensor) or x.dim() != 4:
            raise TypeError(f"{_NAME}: {name} must be a tensor of 4 dimensions, got {describe(x)}")
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k_cache, v_cache, k, v)):
        raise ValueError(f"{_NAME}: no gradients here; use cached_reason_attention, or call it under torch.no_grad()")
    if (k is None) != (v is None):
        raise ValueError(f"{_NAME}: k and v go together")

    batch, queries, heads, width = q.shape
    device, entries, capacity = q.device, k_cache.shape[0], k_cache.shape[1]
    _check_shapes(q, k_cache, v_cache, k, v)
    new = 0 if k is None else k.shape[1]
    entry = _index("cache_batch_idx", cache_batch_idx, torch.arange(batch, device=device), entries - 1)
    start = _index("cache_leftpad", cache_leftpad, torch.zeros(batch, dtype=torch.int64, device=device), capacity)
    seqlens = (capacity if k is None else 0) if cache_seqlens is None else cache_seqlens
    if not isinstance(seqlens, Tensor):
        count = as_int(_NAME, "cache_seqlens", seqlens)
        seqlens = torch.full((batch,), count, dtype=torch.int64, device=device)
    end = _index("cache_seqlens", seqlens, start, capacity - new)
    if k is not None and v is not None:
        position = end[:, None] + torch.arange(new, device=device)
        k_cache[entry[:, None], position] = k.to(k_cache.dtype)
        v_cache[entry[:, None], position] = v.to(v_cache.dtype)
        end = end + new

    # One row per (batch entry, query). The last key it sees goes in as the row's own token, the others as its prefix.
    hidden_keys = torch.arange(queries - 1, -1, -1, device=device) * int(causal)
    last = (end[:, None] - 1 - hidden_keys).flatten()
    entry, start = entry.repeat_interleave(queries), start.repeat_interleave(queries)
    sees_nothing = last < start
    last = torch.where(sees_nothing, start, last).clamp(0, capacity - 1)
    rows = PrefixRows(torch.minimum(start, last), last, entry)
    cache = ReasoningCache.from_prefix(k_cache, v_cache, max_tokens=1, rows=rows)
    own_k, own_v = (x[entry, last].to(q.dtype) for x in (k_cache, v_cache))
    with torch.no_grad():
        out = cached_reason_attention(q.reshape(-1, heads, width), own_k, own_v, cache, softmax_scale=softmax_scale)
    return out.masked_fill(sees_nothing[:, None, None], 0.0).view_as(q)


def _check_shapes(q: Tensor, k_cache: Tensor, v_cache: Tensor, k: Tensor | None, v: Tensor | None) -> None:
    batch, _, heads, width = q.shape
    entries, capacity, kv_heads, _ = k_cache.shape
    expected = {"k_cache": (entries, capacity, kv_heads, width), "v_cache": (entries, capacity, kv_heads, width)}
    if k is not None:
        expected |= {name: (batch, k.shape[1] if k.dim() > 1 else 0, kv_heads, width) for name in ("k", "v")}
    for name, x in (("k_cache", k_cache), ("v_cache", v_cache), ("k", k), ("v", v)):
        if x is not None and tuple(x.shape) != expected[name]:
            raise ValueError(f"{_NAME}: {name} must have shape {list(expected[name])}, got {list(x.shape)}")
    if kv_heads == 0 or heads % kv_heads != 0:
        raise ValueError(f"{_NAME}: q has {heads} heads, expected a multiple of the cache's {kv_heads}")


def _index(name: str, x: Tensor | None, default: Tensor, largest: int) -> Tensor:
    """An index per batch entry in [0, largest], as int64; looked at before anything is written."""
    x = default if x is None else x
    if not isinstance(x, Tensor) or x.dtype not in (torch.int32, torch.int64) or x.shape != default.shape:
        raise ValueError(f"{_NAME}: {name} must be int32 [B] = {list(default.shape)}, got {describe(x)}")
    return torch.ops.rearec.checked_index(x, largest, f"{_NAME}: {name}")

"""compat.flash_attn_with_kvcache against plain attention over the slots each query sees."""

from __future__ import annotations

import pytest
import torch
from backends import Backend
from torch import Tensor

from rearec_kernels import use_backend
from rearec_kernels.compat import flash_attn_with_kvcache


def plain(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """q [Q, H, D], k and v [L, Hkv, D] that the queries may see; causal is aligned to the bottom right."""
    queries, heads, width = q.shape
    group = heads // k.shape[1]
    scores = torch.einsum("qhd,lhd->hql", q, k.repeat_interleave(group, 1)) * width**-0.5
    if causal:
        hidden = torch.ones(queries, k.shape[0], dtype=torch.bool, device=q.device).triu(k.shape[0] - queries + 1)
        scores = scores.masked_fill(hidden, float("-inf"))
    weights = scores.softmax(-1).nan_to_num(0.0)
    return torch.einsum("hql,lhd->qhd", weights, v.repeat_interleave(group, 1))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("queries, new", [(1, 1), (3, 3), (2, 0), (1, 0), (2, 5)])
def test_equals_plain_attention_and_updates_the_cache(backend: Backend, queries: int, new: int, causal: bool) -> None:
    torch.manual_seed(0)
    q = torch.randn(3, queries, 4, 16, device=backend.device)
    k_cache, v_cache = torch.randn(2, 5, 20, 2, 16, device=backend.device).unbind()
    seqlens, leftpad, entry = torch.tensor([[7, 12, 6], [0, 5, 2], [4, 0, 2]], device=backend.device)
    k, v = torch.randn(2, 3, new, 2, 16, device=backend.device).unbind() if new else (None, None)
    expected_k, expected_v = k_cache.clone(), v_cache.clone()
    for b in range(3):
        if k is not None and v is not None:
            expected_k[entry[b], seqlens[b] : seqlens[b] + new] = k[b]
            expected_v[entry[b], seqlens[b] : seqlens[b] + new] = v[b]
    with use_backend(backend.name):
        out = flash_attn_with_kvcache(
            q, k_cache, v_cache, k, v, cache_seqlens=seqlens.int(), cache_batch_idx=entry.int(),
            cache_leftpad=leftpad.int(), causal=causal,
        )  # fmt: skip
    assert torch.equal(k_cache, expected_k) and torch.equal(v_cache, expected_v)
    for b in range(3):
        seen = slice(int(leftpad[b]), int(seqlens[b]) + new)
        expected = plain(
            q[b].double(), expected_k[entry[b], seen].double(), expected_v[entry[b], seen].double(), causal
        )
        torch.testing.assert_close(out[b].double(), expected, rtol=1e-5, atol=1e-5)


def test_defaults_and_a_query_that_sees_nothing() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 1, 2, 8), torch.randn(2, 6, 2, 8), torch.randn(2, 6, 2, 8)
    out = flash_attn_with_kvcache(q, k, v)
    torch.testing.assert_close(out[1], plain(q[1], k[1], v[1], causal=False))
    empty = flash_attn_with_kvcache(q, k, v, cache_seqlens=torch.tensor([0, 6], dtype=torch.int32))
    assert empty[0].abs().max() == 0
    assert torch.equal(empty[1], out[1])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"softcap": 1.0}, "softcap is not supported"),
        ({"return_softmax_lse": True}, "return_softmax_lse is not supported"),
        ({"window_size": (3, 0)}, "window_size is not supported"),
        ({"k": torch.zeros(2, 1, 2, 8)}, "k and v go together"),
        ({"cache_seqlens": torch.tensor([1, 2, 3])}, r"cache_seqlens must be int32 \[B\]"),
        (
            {"k": torch.zeros(2, 3, 2, 8), "v": torch.zeros(2, 3, 2, 8), "cache_seqlens": 4},
            r"cache_seqlens must be in \[0, 3\], got 4 to 4",
        ),
        ({"cache_seqlens": -1}, r"cache_seqlens must be in \[0, 6\], got -1 to -1"),
        ({"cache_seqlens": 99}, r"cache_seqlens must be in \[0, 6\], got 99 to 99"),
        ({"cache_batch_idx": torch.tensor([0, 2])}, r"cache_batch_idx must be in \[0, 1\], got 0 to 2"),
        ({"cache_leftpad": torch.tensor([0, 7])}, r"cache_leftpad must be in \[0, 6\], got 0 to 7"),
        ({"k": torch.zeros(2, 1, 1, 8), "v": torch.zeros(2, 1, 1, 8)}, r"k must have shape \[2, 1, 2, 8\]"),
        ({"k": torch.zeros(2, 2, 8), "v": torch.zeros(2, 2, 8)}, r"k must have shape \[2, 2, 2, 8\], got \[2, 2, 8\]"),
        ({"v_cache": torch.zeros(2, 5, 2, 8)}, r"v_cache must have shape \[2, 6, 2, 8\]"),
        ({"q": torch.zeros(2, 1, 3, 8)}, "q has 3 heads, expected a multiple of the cache's 2"),
        ({"q": torch.zeros(2, 1, 2, 8, requires_grad=True)}, "no gradients here"),
    ],
)
def test_refuses(change: dict[str, object], message: str) -> None:
    arguments = {"q": torch.zeros(2, 1, 2, 8), "k_cache": torch.zeros(2, 6, 2, 8), "v_cache": torch.zeros(2, 6, 2, 8)}
    with pytest.raises(ValueError, match=message):
        flash_attn_with_kvcache(**{**arguments, **change})  # type: ignore[arg-type]

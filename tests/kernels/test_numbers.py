"""NumPy's scalars are numbers wherever Python's are, and give what these give; what is no number is still refused."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from layer_stack import LayerStack
from torch import Tensor

from rearec_kernels import (
    ReasoningCache,
    annealed_cross_entropy,
    annealed_temperatures,
    cached_reason_attention,
    catalog_topk,
    dropout_add_layer_norm,
    ensemble_reasoning_loss,
    prepare_layers,
    reasoning_info_nce,
    reasoning_rollout,
)
from rearec_kernels.compat import flash_attn_with_kvcache

H, W, Y, K = torch.randn(3, 2, 8), torch.randn(9, 8), torch.tensor([0, -1, 2]), torch.randn(3, 5, 2, 8)
CACHES = [torch.randn(3, 6, 2, 8) for _ in range(2)]
STACK = LayerStack.random(3, steps=4).to(torch.float32)


def attend(max_tokens: Any = 2, **options: Any) -> Tensor:
    with torch.no_grad():
        return cached_reason_attention(H, H, H, ReasoningCache.from_prefix(K, K, max_tokens=max_tokens), **options)


@torch.no_grad()
def roll(steps: Any = 2, heads: Any = 2, norm_eps: Any = 1e-12) -> Tensor:
    layers = prepare_layers(STACK.layers, heads=heads, input_norm=STACK.input_norm, norm_eps=norm_eps)
    return reasoning_rollout(STACK.hidden, layers, STACK.keys, STACK.values, steps=steps, rows=STACK.rows)


Call = Callable[[Any], Tensor]
# Of a number that float32 holds exactly, and of a whole number.
REAL: dict[str, tuple[Call, float]] = {
    "tau": (lambda x: annealed_temperatures(x, 2.0, 1), 0.5),
    "alpha": (lambda x: annealed_temperatures(0.5, x, 1), 2.0),
    "temperature": (lambda x: annealed_cross_entropy(H, W, Y.abs(), temperature=x), 0.5),
    "temperatures": (lambda x: annealed_cross_entropy(H, W, Y.abs(), temperature=[x, x]), 0.5),
    "step_weight": (lambda x: annealed_cross_entropy(H, W, Y.abs(), temperature=1.0, step_weight=x), 0.5),
    "ensemble temperature": (lambda x: ensemble_reasoning_loss(H, W, Y.abs(), temperature=x, kl_weight=0.1).loss, 0.5),
    "kl_weight": (lambda x: ensemble_reasoning_loss(H, W, Y.abs(), temperature=1.0, kl_weight=x).loss, 0.5),
    "InfoNCE temperature": (lambda x: reasoning_info_nce(H, H * 2, temperature=x), 0.5),
    "softmax_scale": (lambda x: attend(softmax_scale=x), 0.5),
    "dropout_p": (lambda x: attend(dropout_p=x, seed=1), 0.25),
    "LayerNorm dropout_p": (lambda x: dropout_add_layer_norm(H, None, W[0], W[1], dropout_p=x, seed=1), 0.25),
    "output_dropout_p": (lambda x: dropout_add_layer_norm(H, None, W[0], W[1], output_dropout_p=x, seed=1), 0.25),
    "eps": (lambda x: dropout_add_layer_norm(H, None, W[0], W[1], eps=x), 0.5),
    "norm_eps": (lambda x: roll(norm_eps=x), 0.5),
    "kv-cache softmax_scale": (lambda x: flash_attn_with_kvcache(H[:, None], *CACHES, softmax_scale=x), 0.5),
}
WHOLE: dict[str, tuple[Call, int]] = {
    "k": (lambda x: catalog_topk(H[:, 0], W, x)[0], 4),
    "steps of temperatures": (lambda x: annealed_temperatures(0.5, 2.0, x), 3),
    "ignore_index": (lambda x: annealed_cross_entropy(H, W, Y, temperature=1.0, ignore_index=x), -1),
    "ensemble ignore_index": (
        lambda x: ensemble_reasoning_loss(H, W, Y, temperature=1.0, kl_weight=0.1, ignore_index=x).loss, -1,
    ),
    "max_tokens": (lambda x: attend(max_tokens=x), 2),
    "step": (lambda x: attend(step=x), 0),
    "seed": (lambda x: attend(dropout_p=0.5, seed=x), 3),
    "LayerNorm seed": (lambda x: dropout_add_layer_norm(H, None, W[0], W[1], dropout_p=0.5, seed=x), 3),
    "steps of a rollout": (lambda x: roll(steps=x), 3),
    "heads": (lambda x: roll(heads=x), 2),
    "cache_seqlens": (lambda x: flash_attn_with_kvcache(H[:, None], *CACHES, cache_seqlens=x), 3),
}  # fmt: skip


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, Fraction])
@pytest.mark.parametrize("name", REAL)
def test_real(name: str, kind: Any) -> None:
    call, value = REAL[name]
    assert torch.equal(call(kind(value)), call(value))


@pytest.mark.parametrize("kind", [np.int8, np.int32, np.int64, np.uint16])
@pytest.mark.parametrize("name", WHOLE)
def test_whole(name: str, kind: Any) -> None:
    call, value = WHOLE[name]
    if value >= 0 or kind is not np.uint16:
        assert torch.equal(call(kind(value)), call(value))


@pytest.mark.parametrize("wrong", [True, np.True_, "1", 1j, None, torch.ones(2), np.ones(3)], ids=repr)
@pytest.mark.parametrize("name", [*REAL, *WHOLE])
def test_what_is_no_number(name: str, wrong: Any) -> None:
    optional = ("step_weight", "softmax_scale", "kv-cache softmax_scale", "step", "seed", "LayerNorm seed")
    if wrong is None and name in (*optional, "cache_seqlens"):
        return
    if isinstance(wrong, torch.Tensor | np.ndarray | np.bool_ | bool) and name in ("temperature", "step_weight"):
        return  # as many as there are steps, or what torch makes of it
    if name == "temperatures":
        return
    with pytest.raises((TypeError, ValueError), match=r"must be|expected"):
        (REAL | WHOLE)[name][0](wrong)  # type: ignore[operator]


@pytest.mark.parametrize("wrong", [1.0, np.float32(1.0)], ids=repr)
@pytest.mark.parametrize("name", WHOLE)
def test_what_is_not_whole(name: str, wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="must be an int"):
        WHOLE[name][0](wrong)

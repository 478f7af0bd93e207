"""Every public call that computes from floating-point tensors, small, as a function of one tensor [3, 2, 8]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rearec_kernels import (
    LayerWeights,
    ReasoningCache,
    annealed_cross_entropy,
    cached_reason_attention,
    catalog_rank,
    catalog_topk,
    dropout_add_layer_norm,
    ensemble_reasoning_loss,
    prepare_catalog,
    prepare_layers,
    reasoning_info_nce,
    reasoning_rollout,
)

_generator = torch.Generator().manual_seed(0)


def _random(*size: int) -> Tensor:
    return torch.randn(size, generator=_generator, device="cpu")


OTHER, WEIGHT, PREFIX, TARGET = _random(3, 2, 8), _random(9, 8), _random(3, 5, 2, 8), torch.tensor([0, 1, 2])
SOFT = torch.tensor([[0, 1], [8, -1], [2, 2]]), torch.tensor([[0.9, 0.1], [1.0, 1.0], [0.5, 0.25]])
LAYER = LayerWeights(
    *(_random(*size) / 3 for size in [(8, 8), (8,)] * 4 + [(8,)] * 2 + [(8, 8), (8,)] * 2 + [(8,)] * 2)
)


def _attend(q: Tensor, prefix: Tensor = PREFIX, token: Tensor = OTHER) -> Tensor:
    cache = ReasoningCache.from_prefix(prefix, prefix, max_tokens=1)
    return cached_reason_attention(q, token, token, cache)


def _roll(hidden: Tensor, keys: Tensor, layer: LayerWeights = LAYER) -> Tensor:
    layers = prepare_layers([layer], heads=2, input_norm=(WEIGHT[0], WEIGHT[1]))
    return reasoning_rollout(hidden, layers, [keys], [keys], steps=2)


def _without_gradients(call: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            return call(x)

    return run


# Differentiable once, by reverse mode.
DIFFERENTIABLE: dict[str, Callable[[Tensor], Tensor]] = {
    "cross-entropy of hidden": lambda x: annealed_cross_entropy(x, WEIGHT, TARGET, temperature=1.0),
    "cross-entropy of weight": lambda x: annealed_cross_entropy(OTHER, x.flatten(0, 1), TARGET, temperature=1.0),
    "cross-entropy rows": lambda x: annealed_cross_entropy(x, WEIGHT, TARGET, temperature=1.0, reduction="none"),
    "cross-entropy with soft targets": lambda x: annealed_cross_entropy(
        x, WEIGHT, TARGET, temperature=1.0, soft_target=SOFT
    ),
    "ensemble": lambda x: ensemble_reasoning_loss(x, WEIGHT, TARGET, temperature=1.0, kl_weight=0.1).loss,
    "InfoNCE of noised": lambda x: reasoning_info_nce(x, OTHER, temperature=1.0),
    "InfoNCE rows of clean": lambda x: reasoning_info_nce(OTHER, x, temperature=1.0, reduction="none"),
    "attention of q": _attend,
    "attention of tokens": lambda x: _attend(OTHER, token=x),
    "attention of the prefix": lambda x: _attend(OTHER, prefix=x[:, :, None].expand(3, 2, 2, 8)),
}
LAYER_NORM: dict[str, Callable[[Tensor], Tensor]] = {
    "LayerNorm": lambda x: dropout_add_layer_norm(x, OTHER, WEIGHT[0], WEIGHT[1]),
    "LayerNorm of weight": lambda x: dropout_add_layer_norm(OTHER, None, x[0, 0], x[0, 1]),
}
# Without any derivative.
INFERENCE: dict[str, Callable[[Tensor], Tensor]] = {
    "decode": _without_gradients(_attend),
    "rollout of hidden": _without_gradients(lambda x: _roll(x[:, 0], PREFIX[..., :4])),
    "rollout of keys": _without_gradients(lambda x: _roll(OTHER[:, 0], x.unflatten(2, (2, 4)))),
    "rollout of weights": _without_gradients(
        lambda x: _roll(OTHER[:, 0], PREFIX[..., :4], LAYER._replace(query_bias=x[0, 0]))
    ),
    "top-k of hidden": lambda x: catalog_topk(x[:, 0], WEIGHT, 2)[0],
    "top-k of weight": lambda x: catalog_topk(OTHER[:, 0], x.flatten(0, 1), 2)[0],
    "rank": lambda x: catalog_rank(x[:, 0], WEIGHT, TARGET),
    "rank by a bonus": lambda x: catalog_rank(OTHER[:, 0], WEIGHT, TARGET, target_bonus=x[:, 0, 0]),
    "prepared catalogue": lambda x: catalog_topk(
        OTHER[:, 0], prepare_catalog(x.flatten(0, 1), "bf16"), 2, precision="bf16"
    )[0],
}
EVERY = {**DIFFERENTIABLE, **LAYER_NORM, **INFERENCE}

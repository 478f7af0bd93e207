"""The rollout in plain PyTorch, on the attention beside it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rearec_kernels.layer_weights import LayerWeights
from rearec_kernels.precision import ieee_products
from rearec_kernels.reference.attention import attention


def pack_layers(tensors: list[Tensor]) -> list[Tensor]:
    """The weights as they are."""
    return tensors


def rollout(
    hidden: Tensor, weights: Sequence[Tensor], position_embedding: Tensor | None, keys: Sequence[Tensor],
    values: Sequence[Tensor], start: Tensor, end: Tensor, row_prefix: Tensor, order: Tensor,
    heads: int, ffn: int, steps: int, norm_eps: float,
) -> Tensor:  # fmt: skip
    """Layer by layer and step by step: what the model does, without its modules."""
    norm_weight, norm_bias, *rest = weights
    size = len(LayerWeights._fields)
    layers = [LayerWeights(*rest[i : i + size]) for i in range(0, len(rest), size)]
    tokens: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in layers]
    rows, width = (start, end, row_prefix, order), hidden.shape[1:]
    scale = (hidden.shape[1] // heads) ** -0.5

    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (1, heads, -1))

    states = [hidden]
    with ieee_products(hidden.device):
        for step in range(steps):
            token = states[-1] if position_embedding is None else states[-1] + position_embedding[step]
            token = F.layer_norm(token, width, norm_weight, norm_bias, norm_eps)
            for layer, (token_k, token_v), k, v in zip(layers, tokens, keys, values, strict=True):
                q = split(F.linear(token, layer.query_weight, layer.query_bias))
                token_k.append(split(F.linear(token, layer.key_weight, layer.key_bias)))
                token_v.append(split(F.linear(token, layer.value_weight, layer.value_bias)))
                attended, _, _ = attention(q, token_k, token_v, k, v, (), *rows, scale, 0.0, None, False)
                update = F.linear(attended.flatten(1), layer.output_weight, layer.output_bias)
                norm = layer.attention_norm_weight, layer.attention_norm_bias
                token = F.layer_norm(token + update, width, *norm, norm_eps)
                inner = F.gelu(F.linear(token, layer.inner_weight, layer.inner_bias))
                update = F.linear(inner, layer.outer_weight, layer.outer_bias)
                norm = layer.feed_forward_norm_weight, layer.feed_forward_norm_bias
                token = F.layer_norm(token + update, width, *norm, norm_eps)
            states.append(token)
    return torch.stack(states, dim=1)

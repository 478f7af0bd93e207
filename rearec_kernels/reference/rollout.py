"""The rollout in plain PyTorch, on the attention beside it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rearec_kernels.dropout import ALL_ROWS
from rearec_kernels.layer_weights import LayerWeights
from rearec_kernels.ops.arguments import Attention, Rollout, Rows
from rearec_kernels.ops.rollout import tokens_shape
from rearec_kernels.precision import ieee_products
from rearec_kernels.reference.attention import attention


def pack_layers(tensors: list[Tensor]) -> list[Tensor]:
    """The weights as they are."""
    return tensors


def rollout(args: Rollout, rows: Rows) -> tuple[Tensor, Tensor]:
    """Layer by layer and step by step: what the model does, without its modules."""
    norm_weight, norm_bias, *rest = args.weights
    size = len(LayerWeights._fields)
    layers = [LayerWeights(*rest[i : i + size]) for i in range(0, len(rest), size)]
    tokens: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in layers]
    width = args.hidden.shape[1:]
    scale = (args.hidden.shape[1] // args.heads) ** -0.5

    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (1, args.heads, -1))

    def normalize(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(x, width, weight, bias, args.norm_eps)

    states = [args.hidden]
    with ieee_products(args.hidden.device):
        for step in range(args.steps):
            embedding = args.position_embedding
            token = states[-1] if embedding is None else states[-1] + embedding[step]
            token = normalize(token, norm_weight, norm_bias)
            for layer, (token_k, token_v), k, v in zip(layers, tokens, args.keys, args.values, strict=True):
                q = split(F.linear(token, layer.query_weight, layer.query_bias))
                token_k.append(split(F.linear(token, layer.key_weight, layer.key_bias)))
                token_v.append(split(F.linear(token, layer.value_weight, layer.value_bias)))
                appended = Attention(q, token_k, token_v, k, v, (), scale, dropout_p=0.0, seed=None, keep=False)
                attended, _, _ = attention(appended, rows, ALL_ROWS)
                update = F.linear(attended.flatten(1), layer.output_weight, layer.output_bias)
                token = normalize(token + update, layer.attention_norm_weight, layer.attention_norm_bias)
                inner = F.gelu(F.linear(token, layer.inner_weight, layer.inner_bias))
                update = F.linear(inner, layer.outer_weight, layer.outer_bias)
                token = normalize(token + update, layer.feed_forward_norm_weight, layer.feed_forward_norm_bias)
            states.append(token)
    kept = args.hidden.new_empty(tokens_shape(args))
    if args.keep and args.steps > 0:
        for layer_tokens, of_layer in zip(kept, tokens, strict=True):
            for to, found in zip(layer_tokens, of_layer, strict=True):
                torch.cat(found, dim=1, out=to)
    return torch.stack(states, dim=1), kept

"""The latent reasoning of a batch: K 2 steps through 2 layers over a prefix of 50 slots with lengths 5 to 50."""

from __future__ import annotations

from typing import Any

import careful
import naive
import pytest
import torch
import torch.nn.functional as F
from compare import compare
from torch import Tensor

from rearec.models.config import ReaRecConfig
from rearec.models.encoder import TransformerLayer
from rearec.reasoning import ReaRec
from rearec_kernels import LayerWeights, PrefixRows, ReasoningCache, prepare_layers, reasoning_rollout

SLOTS, HEADS, LAYERS, STEPS = 50, 2, 2, 2


class Problem:
    """A model with random weights, and a prefix of random keys and values."""

    def __init__(self, rows: int, dim: int, ffn: int) -> None:
        torch.manual_seed(0)
        sizes = {"dim": dim, "ffn": ffn, "heads": HEADS, "layers": LAYERS}
        self.model = ReaRec(ReaRecConfig(1, method="prl", steps=STEPS, **sizes)).eval()
        for parameter in self.model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=dim**-0.5)
        self.hidden = torch.randn(rows, dim)
        self.keys, self.values = (
            [torch.randn(rows, SLOTS, HEADS, dim // HEADS) for _ in range(LAYERS)] for _ in range(2)
        )
        self.end = torch.randint(5, SLOTS + 1, (rows,), dtype=torch.int32)
        self.rows = PrefixRows(end=self.end)
        self.seen = torch.arange(SLOTS) < self.end[:, None]
        norm, position = self.model.backbone.input_norm, self.model.reasoning_position_embedding
        assert position is not None
        self.input_norm, self.position = (norm.weight, norm.bias), position.weight
        self.layers: list[Any] = list(self.model.backbone.encoder.layers)
        self.prepared = prepare_layers(
            [_weights(layer) for layer in self.layers],
            heads=HEADS,
            input_norm=self.input_norm,
            position_embedding=self.position,
        )
        self.caches = [careful.PreallocatedCache(k, v, STEPS) for k, v in zip(self.keys, self.values, strict=True)]
        joined = [(layer.query, layer.key, layer.value) for layer in self.layers]
        self.joined = [(torch.cat([x.weight for x in qkv]), torch.cat([x.bias for x in qkv])) for qkv in joined]
        visible = F.pad(self.seen, (0, STEPS), value=True)[:, None, None]
        self.additive_mask = torch.where(visible, 0.0, float("-inf"))

    def ours(self) -> Tensor:
        return reasoning_rollout(self.hidden, self.prepared, self.keys, self.values, steps=STEPS, rows=self.rows)

    def unfused(self) -> Tensor:
        """Ours as with gradients: the model's modules, and one call of the attention per layer and step."""
        caches = [
            ReasoningCache.from_prefix(k, v, max_tokens=STEPS, rows=self.rows)
            for k, v in zip(self.keys, self.values, strict=True)
        ]
        states = [self.hidden]
        for step in range(STEPS):
            states.append(self.model.backbone.step(states[-1] + self.position[step], caches))
        return torch.stack(states, 1)

    def careful(self) -> Tensor:
        """SDPA over keys and values in buffers with room for the steps; query, key and value in one product."""
        states = [self.hidden]
        for step in range(STEPS):
            token = self._token(states[-1], step)
            for layer, cache, joined in zip(self.layers, self.caches, self.joined, strict=True):
                query, key, value = F.linear(token, *joined).view(len(token), 3, HEADS, -1).unbind(1)
                attended = cache.attend(step, self.additive_mask, query, key, value)
                token = _finish(layer, token, attended.flatten(1))
            states.append(token)
        return torch.stack(states, 1)

    def naive(self) -> Tensor:
        """Concatenated keys and values, as the official code has them, but for one token per row and step."""
        keys, values, states = list(self.keys), list(self.values), [self.hidden]
        mask = torch.where(self.seen, 0.0, -1e4)[:, None, None]
        for step in range(STEPS):
            token = self._token(states[-1], step)
            mask = F.pad(mask, (0, 1))
            for i, layer in enumerate(self.layers):
                query, key, value = (x(token).view(-1, 1, HEADS, keys[i].shape[3]) for x in _projections(layer))
                keys[i], values[i] = torch.cat([keys[i], key], 1), torch.cat([values[i], value], 1)
                attended = naive.attend(query.squeeze(1), keys[i], values[i], mask)
                token = _finish(layer, token, attended.flatten(1))
            states.append(token)
        return torch.stack(states, 1)

    def _token(self, state: Tensor, step: int) -> Tensor:
        return F.layer_norm(state + self.position[step], state.shape[1:], *self.input_norm, 1e-12)


def _projections(layer: TransformerLayer) -> tuple[torch.nn.Linear, ...]:
    return layer.query, layer.key, layer.value


def _weights(layer: TransformerLayer) -> LayerWeights:
    modules = *_projections(layer), layer.output, layer.attention_norm, layer.inner, layer.outer
    return LayerWeights(*(x for m in (*modules, layer.feed_forward_norm) for x in (m.weight, m.bias)))


def _finish(layer: TransformerLayer, token: Tensor, attended: Tensor) -> Tensor:
    hidden = layer.attention_norm(layer.output(attended) + token)
    return layer.feed_forward_norm(layer.outer(F.gelu(layer.inner(hidden))) + hidden)


@pytest.mark.parametrize(("dim", "ffn"), [(256, 300), (64, 128)])
@pytest.mark.parametrize("rows", [1, 32, 256])
def test_rollout(rows: int, dim: int, ffn: int, report: Any) -> None:
    with torch.inference_mode(False), torch.no_grad():
        p = Problem(rows, dim, ffn)
    contenders = {"ours": p.ours, "ours, unfused": p.unfused, "careful (SDPA)": p.careful, "naive": p.naive}
    targets = {}
    if dim == 256 and rows in (1, 256):
        targets = {("time", "careful (SDPA)"): (1.7, 2.8) if rows == 1 else (1.5, 2.0)}
    with torch.inference_mode():
        for who, call in contenders.items():
            torch.testing.assert_close(call(), p.ours(), rtol=1e-4, atol=1e-4, msg=who)
        name = f"rollout, K {STEPS}, {LAYERS} layers, d {dim}, ffn {ffn}, R {rows}, lengths 5 to {SLOTS}"
        report(compare(name, contenders, targets=targets, seconds=2 if rows < 256 else 4), p.ours)

"""The latent reasoning of a batch: K 2 steps through 2 layers over a prefix of 50 slots with lengths 5 to 50."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from contenders import careful, naive
from measure.compare import Target
from measure.contest import Contest
from torch import Tensor

from rearec.models.config import ReaRecConfig
from rearec.models.encoder import TransformerLayer
from rearec.reasoning import ReaRec
from rearec_kernels import LayerWeights, PrefixRows, ReasoningCache, prepare_layers, reasoning_rollout

HEADS, LAYERS, STEPS = 2, 2, 2
AGREEMENT = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
BYTE_RATE = 4e12  # per second: no call on a GPU is faster, which tells how many of them a replay needs


@dataclass(frozen=True)
class Case:
    device: str
    rows: int
    dim: int = 256
    ffn: int = 300
    dtype: torch.dtype = torch.float32
    targets: Sequence[Target] = ()
    slots: int = 50

    @property
    def name(self) -> str:
        dtype = "" if self.dtype == torch.float32 else f", {str(self.dtype).removeprefix('torch.')}"
        sizes = f"d {self.dim}, ffn {self.ffn}, R {self.rows}, lengths 5 to {self.slots}"
        return f"rollout, K {STEPS}, {LAYERS} layers, {sizes}{dtype}"


CASES = [
    *(
        Case("cpu", rows, targets=[Target("careful (SDPA)", *bounds)] if bounds else [])
        for rows, bounds in ((1, (1.7, 2.8)), (32, None), (256, (1.5, 2.0)))
    ),
    *(Case("cpu", rows, 64, 128) for rows in (1, 32, 256)),
    *(Case("cuda", rows, dtype=dtype) for rows in (1, 256, 2048) for dtype in AGREEMENT),
]


class Problem:
    """A model with random weights, and a prefix of random keys and values."""

    def __init__(self, case: Case, device: torch.device, seed: int) -> None:
        rows, dim, ffn, slots = case.rows, case.dim, case.ffn, case.slots
        place = {"device": device, "dtype": case.dtype}
        torch.manual_seed(seed)
        sizes = {"dim": dim, "ffn": ffn, "heads": HEADS, "layers": LAYERS}
        self.model = ReaRec(ReaRecConfig(1, method="prl", steps=STEPS, **sizes)).eval().to(**place)
        for parameter in self.model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=dim**-0.5)
        self.hidden = torch.randn(rows, dim, **place)
        self.keys, self.values = (
            [torch.randn(rows, slots, HEADS, dim // HEADS, **place) for _ in range(LAYERS)] for _ in range(2)
        )
        self.end = torch.randint(5, slots + 1, (rows,), dtype=torch.int32, device=device)
        self.rows = PrefixRows(end=self.end)
        self.seen = torch.arange(slots, device=device) < self.end[:, None]
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
        self.additive_mask = torch.where(visible, 0.0, float("-inf")).to(case.dtype)

    @property
    def prefix_bytes(self) -> int:
        return sum(x.nbytes for x in (*self.keys, *self.values))

    @property
    def bytes_read(self) -> int:
        return self.prefix_bytes + sum(x.nbytes for x in self.model.parameters())

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
        mask = torch.where(self.seen, 0.0, -1e4)[:, None, None].to(self.hidden.dtype)
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


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.device}, {case.name}")
def test_rollout(case: Case, contest: Contest) -> None:
    """On a GPU ours is what a model does, one call of the attention per layer and step: replayed, it is one graph."""
    case = contest.size(case)
    with torch.inference_mode(False), torch.no_grad():
        sets = contest.sets(partial(Problem, case, contest.device), lambda p: p.bytes_read)
    contenders: dict[str, Any] = {
        "ours": [p.unfused if case.device == "cuda" else p.ours for p in sets],
        "careful (SDPA)": [p.careful for p in sets],
        "naive": [p.naive for p in sets],
    }
    if case.device == "cpu":
        contenders["ours, unfused"] = [p.unfused for p in sets]
    with torch.inference_mode():
        contest(
            case.name,
            contenders,
            bound=AGREEMENT[case.dtype],
            compared=lambda states: [states],
            targets=case.targets,
            call_seconds=STEPS * sets[0].prefix_bytes / LAYERS / BYTE_RATE,
            seconds=2 if case.rows < 256 else 4,
        )

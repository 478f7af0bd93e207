"""The rollout of a whole model: as one CUDA graph, launched kernel by kernel, and with naive attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import naive
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from on_gpu.attention import FEWEST_SLOTS
from on_gpu.comparison import Calls, Results
from rearec.data.batch import IGNORE_INDEX, Batch
from rearec.engine import Engine
from rearec.models import ReaRecConfig
from rearec.models.encoder import TransformerLayer
from rearec.reasoning import ReaRec


@dataclass(frozen=True)
class Rollouts:
    """The contenders of one model: a call per batch, and the rollout that should have become a graph."""

    contenders: dict[str, Calls]
    graphed: Engine


def build_model(config: ReaRecConfig, device: torch.device, dtype: torch.dtype) -> ReaRec:
    """With random weights, in evaluation mode."""
    torch.manual_seed(0)
    return ReaRec(config).to(device, dtype).eval()


def random_batch(config: ReaRecConfig, rows: int, device: torch.device, seed: int) -> Batch:
    """A window per row, of which the row sees 5 slots to all."""
    generator = torch.Generator(device).manual_seed(seed)
    slots = config.max_len
    items = torch.randint(config.num_items, (rows, slots), device=device, generator=generator)
    end = torch.randint(min(FEWEST_SLOTS, slots), slots + 1, (rows,), device=device, generator=generator).int()
    row = torch.arange(rows, device=device)
    return Batch(items, end, row.int(), end, torch.full_like(row, IGNORE_INDEX), row)


def rollouts(model: ReaRec, batches: Sequence[Batch]) -> Rollouts:
    """To be called without gradients. "ours" is the graph, where the model is on a GPU."""
    graphed = Engine(model)
    contenders: dict[str, Calls] = {
        "ours": [partial(_states, graphed, batch) for batch in batches],
        "ours, no graph": [partial(_states, model, batch) for batch in batches],
        "naive": [partial(_naive_states, model, batch) for batch in batches],
    }
    return Rollouts(contenders, graphed)


def _states(model: ReaRec | Engine, batch: Batch) -> Results:
    return [model(batch).states]


def _projections(layer: TransformerLayer) -> tuple[nn.Linear, ...]:
    return layer.query, layer.key, layer.value


def _naive_states(model: ReaRec, batch: Batch) -> Results:
    """The states [R, T, d] that the model computes, by attention over concatenated caches; a window per row."""
    backbone, position = model.backbone, model.reasoning_position_embedding
    prefix = backbone.encode(batch.items, batch.row_prefix, batch.end)
    keys, values, states = list(prefix.keys), list(prefix.values), [prefix.states]
    seen = torch.arange(batch.items.shape[1], device=batch.items.device) < batch.end[:, None]
    mask = torch.where(seen, 0.0, -1e4)[:, None, None].to(prefix.states.dtype)
    for step in range(model.config.steps):
        token: Tensor = states[-1] if position is None else states[-1] + position.weight[step]
        token = backbone.input_norm(token)
        mask = F.pad(mask, (0, 1))
        for i, layer in enumerate(backbone.encoder.layers):
            query, key, value = (f(token).unflatten(-1, (layer.heads, -1)) for f in _projections(layer))
            keys[i], values[i] = torch.cat([keys[i], key[:, None]], 1), torch.cat([values[i], value[:, None]], 1)
            attended = naive.attend(query, keys[i], values[i], mask)
            token = layer.finish(token, attended.flatten(-2))
        states.append(token)
    return [torch.stack(states, dim=1)]

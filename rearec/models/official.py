"""Loading checkpoints of the official code (github.com/TangJiakai/ReaRec): its PRL and ERL classes' state dicts.

Differences that the mapping takes care of:
- the last row of its item table is the padding item, and the last row of its position table (50) the position of
  padding; both are dropped, item ids stay the same;
- its encoder is registered twice, so every encoder tensor is stored under two names;
- the number of heads, the temperatures and the loss weights are not in a state dict.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rearec.errors import UserError
from rearec.models.config import ReaRecConfig

__all__ = ["load_official_state_dict"]

ITEM_TABLE = "item_emb.weight"
POSITION_TABLE = "pos_emb.weight"
REASONING_TABLE = "model.reason_pos_emb.weight"
INPUT_NORM = "model.LayerNorm"
ENCODER = "trm_encoder.layer"
ENCODER_COPY = "model.transformer.layer"

# official name within a layer -> ours
LAYER_MODULES = {
    "multi_head_attention.query_layer": "query",
    "multi_head_attention.key_layer": "key",
    "multi_head_attention.value_layer": "value",
    "multi_head_attention.dense": "output",
    "multi_head_attention.LayerNorm": "attention_norm",
    "feed_forward.dense_1": "inner",
    "feed_forward.dense_2": "outer",
    "feed_forward.LayerNorm": "feed_forward_norm",
}


def load_official_state_dict(
    source: str | Path | Mapping[str, Tensor], *, method: str, heads: int = 2, **settings: Any
) -> tuple[ReaRecConfig, dict[str, Tensor]]:
    """The configuration and the state dict of a `ReaRec` model equal to an official checkpoint.

    source: a file that the official code saved with ``torch.save(model.state_dict())`` (read with weights_only, so that
        nothing in it is executed), or the state dict itself.
    method: ``prl`` or ``erl``, the official class that was trained; the state dict does not tell.
    heads: attention heads (the official default is 2), not in the state dict either.
    settings: further fields of `ReaRecConfig` that are not in the weights, such as temperature or alpha.

    Raises UserError if the file cannot be read or is no such checkpoint; ValueError for a wrong setting.
    """
    name = "state dict" if isinstance(source, Mapping) else str(source)
    official = dict(source) if isinstance(source, Mapping) else _read(Path(source))
    tables = {table: _take_matrix(official, table, name) for table in (ITEM_TABLE, POSITION_TABLE)}
    weights = {
        "backbone.item_embedding.weight": tables[ITEM_TABLE][:-1],
        "backbone.position_embedding.weight": tables[POSITION_TABLE][:-1],
    }
    steps = 0
    if REASONING_TABLE in official:
        weights["reasoning_position_embedding.weight"] = _take_matrix(official, REASONING_TABLE, name)
        steps = len(weights["reasoning_position_embedding.weight"])
    for parameter in ("weight", "bias"):
        weights[f"backbone.input_norm.{parameter}"] = _take(official, f"{INPUT_NORM}.{parameter}", name)
    layers = 0
    while any(key.startswith((f"{ENCODER}.{layers}.", f"{ENCODER_COPY}.{layers}.")) for key in official):
        for theirs, ours in LAYER_MODULES.items():
            for parameter in ("weight", "bias"):
                weights[f"backbone.encoder.layers.{layers}.{ours}.{parameter}"] = _take_layer_tensor(
                    official, f"{layers}.{theirs}.{parameter}", name
                )
        layers += 1
    if layers == 0:
        raise UserError(f"{name}: no tensor {ENCODER}.0.*, expected a state dict of the official ReaRec code")
    if official:
        raise UserError(f"{name}: tensor {next(iter(official))} is not part of the official ReaRec models")
    config = ReaRecConfig(
        num_items=len(weights["backbone.item_embedding.weight"]),
        method=method,
        steps=steps,
        dim=tables[ITEM_TABLE].shape[1],
        ffn=len(weights["backbone.encoder.layers.0.inner.bias"]),
        layers=layers,
        heads=heads,
        max_len=len(weights["backbone.position_embedding.weight"]),
        **settings,
    )
    return config, weights


def _read(path: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file, expected a state dict saved by the official ReaRec code") from error
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: not a file of tensors that torch can load without executing code") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise UserError(f"{path}: holds something else than named tensors, expected a state dict")
    return dict(loaded)


def _take(official: dict[str, Tensor], key: str, name: str) -> Tensor:
    if key not in official:
        raise UserError(f"{name}: tensor {key} is missing, expected a state dict of the official ReaRec code")
    return official.pop(key)


def _take_matrix(official: dict[str, Tensor], key: str, name: str) -> Tensor:
    matrix = _take(official, key, name)
    if matrix.ndim != 2:
        raise UserError(f"{name}: tensor {key} has shape {list(matrix.shape)}, expected [rows, width]")
    return matrix


def _take_layer_tensor(official: dict[str, Tensor], key: str, name: str) -> Tensor:
    """A tensor of the encoder, stored under one or both of its names."""
    copy = official.pop(f"{ENCODER_COPY}.{key}", None)
    tensor = _take(official, f"{ENCODER}.{key}", name) if copy is None else official.pop(f"{ENCODER}.{key}", copy)
    if copy is not None and not torch.equal(tensor, copy):
        raise UserError(f"{name}: {ENCODER}.{key} and {ENCODER_COPY}.{key} differ, expected the same tensor twice")
    return tensor

"""Warm start: a new model takes over the weights of a finished one, its items matched by their ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rearec.errors import UserError
from rearec.fields import settings
from rearec.models.config import BACKBONES, ReaRecConfig
from rearec.models.item_table import split_embedding
from rearec.models.saved import locate_model, read_config
from rearec.models.weight_files import read_weights
from rearec.reasoning import ReaRec
from rearec.run_folder import RunFolder

__all__ = ["warm_start"]

ITEMS = "backbone.item_embedding.weight"
# Methods differ in whether they have it: it may begin as new, and be left behind.
POSITIONS = "reasoning_position_embedding.weight"
# The settings that the shape and the meaning of a model's weights depend on, beside its number of items and of steps.
SHAPE = (
    *("backbone", "dim", "ffn", "layers", "heads", "max_len", "feature_dim", "text_encoder"),
    *("experts", "transductive", "adaptor_layers", "training_task"),
)


def warm_start(model: ReaRec, item_ids: Sequence[str], init: str | Path | ReaRec) -> dict[str, Any]:
    """Give a new model the weights of ``init``, a finished RUN folder or a model with the same items.

    item_ids: of the new model's items. Known ones get their vectors, the others keep those that they were made with.
    The items' features or titles stay the new model's.

    Returns:
        what options.json says of it: ``run`` (path, None for a model), ``items`` (counts: ``known``, ``new``,
        ``dropped``; None where the model has no vectors of its own for them), ``new`` and ``dropped`` (names of other
        weights).

    Raises:
        UserError: there is no such run, or its model has another shape; the message names the setting.
    """
    if isinstance(init, ReaRec):
        where, path, known_ids, config = "init", None, None, init.config
        weights = {name: tensor.detach().cpu() for name, tensor in init.state_dict().items()}
        if config.num_items != len(item_ids):
            raise UserError(
                f"init: the model has {config.num_items} items and no ids of them, expected the dataset's "
                f"{len(item_ids)}; for other items give its RUN folder"
            )
    else:
        folder = RunFolder(init)
        folder.check_finished()
        where, path, known_ids = str(folder.path), str(folder.path.resolve()), folder.catalog().item_ids
        config_file, weights_file = locate_model(folder.path)
        config, weights = read_config(config_file), read_weights(weights_file)
    _check_shape(where, config, model.config)
    frozen = model.frozen_state().keys()
    target = {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}
    items = None
    if ITEMS in target and ITEMS in weights:
        places = list(range(len(item_ids))) if known_ids is None else _places(known_ids, item_ids)
        taken = [place for place in places if place is not None]
        items = {"known": len(taken), "new": len(places) - len(taken), "dropped": config.num_items - len(taken)}
        split = split_embedding(model)
        here = places if split is None else places[split.rows.start : split.rows.stop]
        weights[ITEMS] = _matched(target[ITEMS], weights[ITEMS], here, where)
    elif config.backbone not in BACKBONES and known_ids is not None and list(known_ids) != list(item_ids):
        raise UserError(
            f"{where}: has other items, and nothing named item_embedding in its backbone by which to match them"
        )
    new = [name for name in target if name not in weights]
    dropped = [name for name in weights if name not in target and name not in frozen]
    for name in (*new, *dropped):
        if name != POSITIONS:
            raise UserError(f"{where}: a warm start needs the same weights, {name} is in one of the models only")
    for name, tensor in target.items():
        if name in weights and weights[name].shape != tensor.shape:
            raise UserError(f"{where}: {name} has shape {[*weights[name].shape]}, expected {[*tensor.shape]}")
    with torch.no_grad():
        for name in target.keys() & weights.keys():
            target[name].copy_(weights[name])
    return {"run": path, "items": items, "new": new, "dropped": dropped}


def _check_shape(where: str, config: ReaRecConfig, expected: ReaRecConfig) -> None:
    known = settings(ReaRecConfig)
    read = [name for name in SHAPE if known[name].not_read_by(expected.backbone, None) is None]
    if config.has_reasoning_positions and expected.has_reasoning_positions:
        read.append("steps")
    for name in read:
        if getattr(config, name) != getattr(expected, name):
            raise UserError(
                f"{where}: its {name} is {getattr(config, name)}, not {getattr(expected, name)}: a warm start needs "
                "a model of the same shape"
            )


def _places(known_ids: Sequence[str], item_ids: Sequence[str]) -> list[int | None]:
    """Where each item stands among the known ones, None for a new one."""
    place = {item: number for number, item in enumerate(known_ids)}
    return [place.get(item) for item in item_ids]


def _matched(new: Tensor, old: Tensor, places: Sequence[int | None], where: str) -> Tensor:
    """The new table with the rows of the old one at their items."""
    if old.dim() != new.dim() or old.shape[1:] != new.shape[1:]:
        raise UserError(f"{where}: {ITEMS} has shape {[*old.shape]}, expected {[*new.shape]} but for its rows")
    table = new.clone()
    pairs = [(row, place) for row, place in enumerate(places) if place is not None]
    if pairs:
        rows, taken = torch.tensor(pairs).T
        table[rows] = old[taken].to(table.dtype)
    return table

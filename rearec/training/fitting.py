"""How a model fits a dataset: its sizes, what its backbone reads of the items, what a run records of the data."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rearec.data.dataset import SequenceDataset
from rearec.errors import UserError
from rearec.models.config import TEXT_BACKBONES, ReaRecConfig
from rearec.models.title_encoder import TitleEncoder, encoder_width

__all__ = ["check_dataset", "describe", "fitting_config", "texts_of"]


def fitting_config(dataset: SequenceDataset, **settings: Any) -> ReaRecConfig:
    """A configuration for a dataset: its number of items and, for a backbone that reads texts, their vectors' width.

    settings: the other fields of `ReaRecConfig`.

    Raises:
        UserError: the backbone reads features and the dataset has none, or it reads titles and there are none, or there
            is no such text encoder.
        ValueError: a setting is wrong.

    Examples:
        >>> from rearec.data.synthetic import Planted, generate
        >>> from rearec.training import fitting_config
        >>> dataset = generate(0, planted=Planted(users=20, themes=2, items_per_theme=3))
        >>> config = fitting_config(dataset, method="erl", steps=1, dim=16)
        >>> config.num_items == dataset.num_items
        True
    """
    backbone, width = settings.get("backbone"), 0
    if backbone in TEXT_BACKBONES and settings.get("text_encoder"):
        if not any(dataset.item_titles or []):
            raise UserError(
                "a text encoder reads the items' titles, and the dataset has none; "
                "prepare it again with 'rearec prepare ... --titles FILE'"
            )
        width = encoder_width(settings["text_encoder"])
    elif backbone in TEXT_BACKBONES:
        if dataset.features is None:
            raise UserError(
                f"{backbone} reads features of the items, and the dataset has none; make them with 'rearec embed DIR'"
            )
        width = dataset.features.shape[1]
    return ReaRecConfig(num_items=dataset.num_items, feature_dim=width, **settings)


def check_dataset(dataset: SequenceDataset, config: ReaRecConfig) -> None:
    """ValueError where the model is not for this dataset; UserError where there is nothing to train or choose by."""
    if config.num_items != dataset.num_items:
        raise ValueError(f"num_items: got {config.num_items}, expected the dataset's {dataset.num_items}")
    width = fitting_config(dataset, backbone=config.backbone, text_encoder=config.text_encoder).feature_dim
    if config.reads_texts and config.feature_dim != width:
        whose = "the dataset's" if config.reads_features else "the text encoder's"
        raise ValueError(f"feature_dim: got {config.feature_dim}, expected {whose} {width}")
    for split, why in (("train", "train on"), ("valid", "choose the best epoch by")):
        if not len(dataset.rows(split)):  # type: ignore[arg-type]
            raise UserError(f"the dataset has no {split} rows to {why}; choose another split when preparing it")


def texts_of(config: ReaRecConfig, dataset: SequenceDataset) -> torch.Tensor | TitleEncoder | None:
    """What the backbone knows items by, beside their ids."""
    if config.text_encoder is not None:
        return TitleEncoder.pretrained(config.text_encoder, dataset.item_titles or [], config.text_tokens)
    return torch.from_numpy(np.array(dataset.features)) if config.reads_features else None


def describe(dataset: SequenceDataset, config: ReaRecConfig, path: Path | None) -> dict[str, Any]:
    """What a run records of its dataset: where it was, how large it is, and the digests of what the model reads."""
    return {
        "path": None if path is None else str(path.resolve()),
        "items": dataset.num_items,
        "users": dataset.num_users,
        "interactions": dataset.num_interactions,
        "fingerprint": dataset.fingerprint,
        "features": _digest(np.ascontiguousarray(dataset.features).data) if config.reads_features else None,
        "titles": None if config.text_encoder is None else _digest(json.dumps(dataset.item_titles).encode()),
        "rows": {split: len(dataset.rows(split)) for split in ("train", "valid", "test")},
    }


def _digest(data: bytes | memoryview) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()

"""How a model fits a dataset: its sizes, what its backbone reads of the items, what a run records of the data."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rearec.data.dataset import SequenceDataset
from rearec.errors import UserError
from rearec.fields import settings
from rearec.models.config import TEXT_BACKBONES, ReaRecConfig
from rearec.models.title_encoder import TitleEncoder, encoder_width
from rearec.training.options import TrainingOptions
from rearec.training.presets import DECIDED, KNOWN, Preset, preset_settings, relevant

__all__ = ["check_dataset", "check_names", "describe", "differing", "fitting_config", "settings_for", "texts_of"]


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


def settings_for(
    dataset: SequenceDataset, *, preset: Preset = "best", backbone: str = "sasrec", method: str = "prl", **given: Any
) -> tuple[ReaRecConfig, TrainingOptions]:
    """The settings to train with on a dataset: those of a preset, and the given ones in their place.

    preset: "best", the best known settings, or "paper", the paper's sizes with the official code's settings. What the
    backbone or the method does not read is left at the library's default.
    given: fields of `ReaRecConfig` and of `TrainingOptions`.

    Raises:
        ValueError: there is no such preset or field, or a value is wrong; the message names it.
        UserError: as `fitting_config` does.

    Examples:
        >>> from rearec.data.synthetic import Planted, generate
        >>> from rearec.training import settings_for
        >>> dataset = generate(0, planted=Planted(users=20, themes=2, items_per_theme=3))
        >>> config, options = settings_for(dataset, method="prl", epochs=5)
        >>> config.dim, config.steps, options.lr, options.epochs
        (64, 3, 0.0005, 5)
        >>> settings_for(dataset, preset="paper")[0].dim
        256
    """
    usual = preset_settings(preset, backbone, method)
    check_names(given)
    wanted = {name: value for name, value in usual.items() if relevant(name, backbone, method)} | given
    model = {name: value for name, value in wanted.items() if name in settings(ReaRecConfig)}
    training = {name: value for name, value in wanted.items() if name not in model}
    return fitting_config(dataset, backbone=backbone, method=method, **model), TrainingOptions(**training)


def check_names(given: Iterable[str]) -> None:
    """ValueError for a name that no setting has which one may choose; says which it is like."""
    free = [name for name in KNOWN if name not in ("num_items", "feature_dim")]
    for name in given:
        if name not in free:
            near = difflib.get_close_matches(name, free, 1)
            raise ValueError(
                f"{name}: no setting of a model or a training" + (f"; did you mean {near[0]}?" if near else "")
            )


def differing(config: ReaRecConfig, options: TrainingOptions, preset: Preset) -> dict[str, tuple[Any, Any]]:
    """What differs from a preset, by field: the value, and the preset's. Settings that nobody reads are left out.

    Examples:
        >>> from rearec.models import ReaRecConfig
        >>> from rearec.training import TrainingOptions, differing
        >>> differing(ReaRecConfig(100, dim=128), TrainingOptions(), "paper")
        {'dim': (128, 256)}
    """
    usual = preset_settings(preset, config.backbone, config.method)
    return {
        name: (value, expected)
        for name, value in {**asdict(config), **asdict(options)}.items()
        if name not in DECIDED and relevant(name, config.backbone, config.method)
        if value != (expected := usual.get(name, KNOWN[name].default))
    }


def check_dataset(dataset: SequenceDataset, config: ReaRecConfig, *, validates: bool = True) -> None:
    """ValueError where the model is not for this dataset; UserError where there is nothing to train or choose by.

    validates: whether the best epoch is to be chosen by validation rows.
    """
    if config.num_items != dataset.num_items:
        raise ValueError(f"num_items: got {config.num_items}, expected the dataset's {dataset.num_items}")
    width = fitting_config(dataset, backbone=config.backbone, text_encoder=config.text_encoder).feature_dim
    if config.reads_texts and config.feature_dim != width:
        whose = "the dataset's" if config.reads_features else "the text encoder's"
        raise ValueError(f"feature_dim: got {config.feature_dim}, expected {whose} {width}")
    for split, why in (("train", "train on"), *((("valid", "choose the best epoch by"),) if validates else ())):
        if not len(dataset.rows(split)):
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

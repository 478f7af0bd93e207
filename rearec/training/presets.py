"""The presets that every training starts from: the best known settings, and the paper's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from rearec.fields import settings
from rearec.models.config import ReaRecConfig
from rearec.training.options import TrainingOptions

__all__ = ["PRESETS", "Preset", "best_settings", "preset_settings", "relevant", "usual_setting"]

# best: what we know to be best. paper: the paper's sizes with the official code's settings, which are the defaults of
# ReaRecConfig and TrainingOptions.
Preset = Literal["best", "paper"]
PRESETS: tuple[Preset, ...] = get_args(Preset)


# For every training, by the fields of ReaRecConfig and TrainingOptions.
SHARED: Mapping[str, Any] = {
    "dim": 64,
    "ffn": 128,
    "steps": 2,
    "temperature": 0.07,
    "epochs": 30,
    "patience": 6,
    "batch_rows": 512,
    "precision": "fp32",
    "prior": "graph",
}
BY_METHOD: Mapping[str, Mapping[str, Any]] = {
    "erl": {"kl_weight": 0.01},
    "prl": {"alpha": 1.5, "cl_weight": 0.0},
}
# What a backbone wants instead, by (backbone, method). sasrec: what `rearec reproduce search` found on Amazon 2018
# Scientific, six settings for each method, chosen by NDCG@20 on validation. morec: at the usual learning rate its
# validation NDCG@20 still rose in the last of 30 epochs.
BY_BACKBONE: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("sasrec", "base"): {"input_dropout": 0.3, "temperature": 0.1},
    ("sasrec", "erl"): {"dropout": 0.4, "input_dropout": 0.3, "temperature": 0.05, "steps": 1},
    ("sasrec", "prl"): {"dropout": 0.4, "lr": 5e-4, "steps": 3, "cl_weight": 0.01},
    ("morec", "base"): {"lr": 3e-3},
    ("morec", "erl"): {"lr": 3e-3},
    ("morec", "prl"): {"lr": 3e-3},
}

KNOWN = {**settings(ReaRecConfig), **settings(TrainingOptions)}
# What the data or the caller decides: no preset holds it, no search tries it.
DECIDED = ("num_items", "feature_dim", "backbone", "method", "seed", "exclude_seen")


def best_settings(backbone: str, method: str) -> dict[str, Any]:
    """The settings to train with, by field; those not there keep the library's default."""
    return {**SHARED, **BY_METHOD.get(method, {}), **BY_BACKBONE.get((backbone, method), {})}


def preset_settings(preset: Preset, backbone: str, method: str) -> dict[str, Any]:
    """The settings of a preset, by field; those not there keep the library's default, which is the paper's.

    ValueError where there is no such preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset: got {preset!r}, expected one of {', '.join(PRESETS)}")
    return best_settings(backbone, method) if preset == "best" else {}


def usual_setting(name: str) -> str:
    """What the best settings hold for all backbones and methods, as text; "best known" where they differ."""
    special = [*BY_METHOD.values(), *BY_BACKBONE.values()]
    return "best known" if any(name in changes for changes in special) else str(SHARED.get(name, KNOWN[name].default))


def relevant(name: str, backbone: str, method: str) -> bool:
    """Whether a training with this backbone and method reads a setting."""
    return KNOWN[name].not_read_by(backbone, method) is None

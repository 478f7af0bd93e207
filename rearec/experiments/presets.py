"""The best known settings of every backbone and method: the one table from which all experiments start."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from rearec.models.config import TEXT_BACKBONES

__all__ = ["best_settings", "relevant"]

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

# Settings that only some methods or backbones read.
METHODS_OF: Mapping[str, Collection[str]] = {
    "steps": ("naive", "rpe", "erl", "prl"),
    **dict.fromkeys(("kl_weight", "kl_form"), ("erl",)),
    **dict.fromkeys(("alpha", "step_weights", "pl_weight", "cl_weight", "noise", "warmup", "noised_prefix"), ("prl",)),
}
BACKBONES_OF: Mapping[str, Collection[str]] = {
    "adaptor_dropout": TEXT_BACKBONES,
    **dict.fromkeys(("experts", "transductive"), ("unisrec",)),
    "adaptor_layers": ("morec",),
}


def best_settings(backbone: str, method: str) -> dict[str, Any]:
    """The settings to train with, by field; those not there keep the library's default."""
    return {**SHARED, **BY_METHOD.get(method, {}), **BY_BACKBONE.get((backbone, method), {})}


def relevant(setting: str, backbone: str, method: str) -> bool:
    """Whether a training with this backbone and method reads a setting."""
    return backbone in BACKBONES_OF.get(setting, (backbone,)) and method in METHODS_OF.get(setting, (method,))

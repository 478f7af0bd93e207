"""The best known settings of every backbone and method: the one table from which all experiments start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
# Where a backbone wants something else, by (backbone, method).
BY_BACKBONE: Mapping[tuple[str, str], Mapping[str, Any]] = {}

# Settings that only one method reads.
METHOD_SETTINGS: Mapping[str, frozenset[str]] = {
    "erl": frozenset(("kl_weight", "kl_form")),
    "prl": frozenset(("alpha", "step_weights", "pl_weight", "cl_weight", "noise", "warmup", "noised_prefix")),
}


def best_settings(backbone: str, method: str) -> dict[str, Any]:
    """The settings to train with, by field; those not there keep the library's default."""
    return {**SHARED, **BY_METHOD.get(method, {}), **BY_BACKBONE.get((backbone, method), {})}


def relevant(setting: str, method: str) -> bool:
    """Whether a method reads a setting: the objective's are each read by one method, steps by all that reason."""
    if setting == "steps":
        return method != "base"
    owner = next((name for name, settings in METHOD_SETTINGS.items() if setting in settings), method)
    return owner == method

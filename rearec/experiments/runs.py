"""One training of an experiment: its settings, and the name of its folder, by which experiments share it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from rearec.models.config import ReaRecConfig
from rearec.run_folder import RunFolder
from rearec.training import TrainingOptions

__all__ = ["Run", "training_minutes"]

# What tells the runs of one method apart to a reader; the hash tells all of them apart.
NAMED_SETTINGS = {"erl": {"kl_weight": "kl"}, "prl": {"alpha": "alpha", "cl_weight": "cl"}}


@dataclass(frozen=True)
class Run:
    """A training: equal settings are the same run, whichever table or figure asks for it."""

    config: ReaRecConfig
    options: TrainingOptions

    @cached_property
    def name(self) -> str:
        """Readable, a valid folder name, and different for different settings.

        The hash is over the settings that differ from the library's defaults, so that a new setting with a default
        leaves the names of earlier runs as they are.
        """
        config = self.config
        changed = {"model": _changed(config), "training": _changed(self.options)}
        # Earlier runs kept seen items, they knew nothing else.
        if self.options.exclude_seen is False:
            del changed["training"]["exclude_seen"]
        digest = hashlib.blake2b(json.dumps(changed, sort_keys=True).encode(), digest_size=4).hexdigest()
        parts = [config.backbone, config.method]
        if config.steps:
            parts.append(f"k{config.steps}")
        parts.append(f"tau{config.temperature:g}")
        named = NAMED_SETTINGS.get(config.method, {})
        parts += [f"{short}{getattr(config, setting):g}" for setting, short in named.items()]
        return "-".join([*parts, f"seed{self.options.seed}", digest])

    def folder(self, runs: Path) -> RunFolder:
        """Its RUN folder among those of ``runs``."""
        return RunFolder(runs / self.name)


def _changed(settings: ReaRecConfig | TrainingOptions) -> dict[str, Any]:
    default = {field.name: field.default for field in fields(settings)}
    return {name: value for name, value in asdict(settings).items() if value != default[name]}


def training_minutes(folder: RunFolder) -> float:
    """Minutes that the epochs of a run took, over all its resumptions; 0 before the first epoch has ended."""
    return sum(float(row["train_seconds"]) + float(row["valid_seconds"]) for row in folder.metrics()) / 60

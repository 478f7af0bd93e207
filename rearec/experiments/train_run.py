"""Trains one run; `rearec.experiments.pool` starts it as a process of its own (`rearec.experiments.processes`)."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rearec.experiments.processes import answer, end_with

if TYPE_CHECKING:
    from rearec.experiments.runs import Run

__all__ = ["arguments_of", "main"]


def arguments_of(run: Run, data: Path, folder: Path, device: str, force: bool) -> str:
    """What `main` is to do, as the last argument of its command line; it ends with the process that calls this.

    data: the prepared dataset. folder: where the runs are. force: from the start, otherwise from its last whole epoch.
    """
    place = str(run.folder(folder).path)
    settings = {"config": asdict(run.config), "options": asdict(run.options), "device": device, "force": force}
    return json.dumps({"data": str(data), "run": place, **settings, "parent": os.getpid()})


def main() -> None:
    """Train the run that the last argument describes."""
    answer(_train)


def _train(
    data: str, run: str, config: dict[str, Any], options: dict[str, Any], device: str, force: bool, parent: int
) -> None:
    from rearec.models.config import ReaRecConfig
    from rearec.training import TrainingOptions, train

    train(
        data,
        run,
        ReaRecConfig.from_dict(config),
        TrainingOptions(**options),
        device=device,
        resume=not force,
        force=force,
        on_batch=lambda epoch, done, batches: end_with(parent),
    )

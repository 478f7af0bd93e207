"""What commands ask of a finished run: its dataset, whether seen items are ranked, how deep it reasons."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rearec.cli.output import note
from rearec.errors import UserError

if TYPE_CHECKING:
    from rearec.data.dataset import SequenceDataset
    from rearec.evaluation.seen import SeenItems
    from rearec.run_folder import RunFolder

__all__ = ["check_steps", "dataset_path", "seen_of_run"]


def dataset_path(run: RunFolder, data: Path | None) -> Path:
    """Where the dataset of a finished run is: ``--data``, or else where it was when the run was trained."""
    return run.dataset_path("--data") if data is None else data


def seen_of_run(run: RunFolder, dataset: SequenceDataset, exclude: bool | None) -> SeenItems:
    """Whether seen items are left out in what is said of a finished run; tells the user, and why."""
    from rearec.evaluation import seen_items

    of_run = run.excludes_seen()
    seen = seen_items(dataset, exclude, of_run=of_run)
    unsaid = exclude is None and of_run is None
    note(f"{seen}; {run.path} was trained before there was a choice" if unsaid else str(seen))
    return seen


def check_steps(steps: int | None, trained: int) -> None:
    """UserError where ``--steps`` asks for more reasoning steps than the model was trained for."""
    if steps is not None and steps > trained:
        raise UserError(f"--steps: got {steps}, expected 0..{trained}: the model was trained for {trained} steps")

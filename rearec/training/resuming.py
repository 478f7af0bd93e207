"""What a run that goes on has to agree with: the options, the data and the epochs that it has behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rearec.data.dataset import SequenceDataset
from rearec.errors import UserError
from rearec.fields import settings
from rearec.models.config import ReaRecConfig
from rearec.run_folder import RunFolder
from rearec.training.fitting import fitting_config
from rearec.training.options import TrainingOptions
from rearec.training.presets import KNOWN, Preset

if TYPE_CHECKING:
    from rearec.reasoning import ReaRec

__all__ = [
    "EXTENDABLE",
    "begun_from",
    "check_same",
    "goes_on",
    "preset_to_resume",
    "settings_of_run",
    "settings_to_resume",
]

# What a run that goes on may have more of than it was started with.
EXTENDABLE = ("epochs", "patience")
# What may be another: the numbers do not depend on it.
FREE = (*EXTENDABLE, "shard_catalog")


def settings_of_run(folder: RunFolder) -> tuple[ReaRecConfig, TrainingOptions]:
    """The settings that a run was started with; UserError where its options.json is damaged."""
    options = folder.options()
    options["training"]["exclude_seen"] = bool(folder.excludes_seen())
    try:
        return ReaRecConfig.from_dict(options["model"]), TrainingOptions(**options["training"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder.options_file}: damaged: {error}") from error


def settings_to_resume(
    folder: RunFolder, dataset: SequenceDataset, given: Mapping[str, Any]
) -> tuple[ReaRecConfig, TrainingOptions]:
    """The settings of the run to resume, with what may be another one where that is given: `FREE`.

    Raises:
        UserError: another setting is given and differs.
        ValueError: a value is wrong.
    """
    stored = settings_of_run(folder)
    before = {**asdict(stored[0]), **asdict(stored[1])}
    for name, value in given.items():
        if name not in FREE and value != before[name]:
            flag, was = KNOWN[name].flag, before[name]
            if name == "exclude_seen":
                flag, was, value = "--exclude-seen/--keep-seen", _seen_flag(was), _seen_flag(value)
            raise UserError(f"{flag}: the run to resume was started with {was}, not {value}")
    values = before | {name: value for name, value in given.items() if name in FREE}
    model = {name: values[name] for name in settings(ReaRecConfig) if name not in ("num_items", "feature_dim")}
    return fitting_config(dataset, **model), TrainingOptions(**{name: values[name] for name in asdict(stored[1])})


def _seen_flag(exclude: bool) -> str:
    return "--exclude-seen" if exclude else "--keep-seen"


def preset_to_resume(folder: RunFolder, given: Preset | None) -> Preset | None:
    """The preset of the run to resume, None where it has none; UserError where another one is given."""
    stored: Preset | None = (folder.options().get("preset") or {}).get("name")
    if given is not None and given != stored:
        raise UserError(f"--preset: the run to resume was started with {stored or 'none'}, not {given}")
    return stored


def begun_from(folder: RunFolder) -> str | None:
    """The RUN folder whose weights a run was started with, None without one; UserError where it was no folder."""
    begun = folder.options().get("init") if folder.options_file.is_file() else None
    if begun is None:
        return None
    if not isinstance(begun.get("run"), str):
        raise UserError(f"{folder.path}: was started with the weights of a model in memory; give it as init again")
    return str(begun["run"])


def check_same(folder: RunFolder, record: dict[str, Any], init: str | Path | ReaRec | None = None) -> None:
    """UserError where the run to resume was started with something else than ``record``, but for `FREE`.

    init: the weights that it is said to have begun with, None where nothing is said.
    """
    before = folder.options()
    if before.get("refit_of") is not None:
        raise UserError(f"{folder.path}: is a refit, which cannot be resumed; make it anew with 'rearec refit --force'")
    before["training"]["exclude_seen"] = bool(folder.excludes_seen())
    for part in ("dataset", "model", "training"):
        for name, value in record[part].items():
            # a setting that there was not yet had its default
            was = before[part].get(name, KNOWN[name].default if name in KNOWN else None)
            # A dataset may have moved; its fingerprint is no option that could be told.
            if name not in ("path", "fingerprint", *FREE) and was != value:
                option = f"{part} option {name} = {was!r}, not {value!r}"
                what = f"other {name} of the items" if name in ("features", "titles") else option
                raise UserError(
                    f"{folder.path}: was started with {what}; resume with the same options, or start anew with --force"
                )
    folder.check_fingerprint(record["dataset"]["fingerprint"], record["dataset"]["path"] or "the dataset")
    if isinstance(init, str | Path) and str(Path(init).resolve()) != begun_from(folder):
        raise UserError(
            f"{folder.path}: was not started with the weights of {init}; resume it without, or start anew with --force"
        )


def goes_on(folder: RunFolder, options: TrainingOptions) -> bool:
    """Whether a run, started with the same options, has anything left to train.

    Raises:
        UserError: it has trained more epochs already, patience has become less, the schedule does not allow other
            epochs than it was made for, it stopped early and has no more patience than before, or the checkpoint to go
            on from is gone.
    """
    _, before = settings_of_run(folder)
    done = len(folder.metrics())
    where = f"{folder.path}: "
    if options.patience < before.patience:
        raise UserError(f"{where}--patience: was started with {before.patience}, which can become more, not less")
    if options.epochs < done:
        raise UserError(f"{where}--epochs: has trained {done} already, expected as many or more, not {options.epochs}")
    if options.epochs != before.epochs and options.schedule != "constant":
        raise UserError(
            f"{where}--epochs: its {options.schedule} schedule was made for {before.epochs} epochs; only a run with a "
            f"constant one can go on to {options.epochs}"
        )
    if not folder.finished:
        return True
    if options.epochs == done or (options.epochs, options.patience) == (before.epochs, before.patience):
        return False
    if folder.result()["stopped_early"] and options.patience == before.patience:
        raise UserError(
            f"{where}stopped early after {done} epochs: it goes on with more --patience than {before.patience} only"
        )
    if not folder.last_checkpoint.is_file():
        raise UserError(
            f"{folder.last_checkpoint}: is missing, and the run cannot go on without; --init {folder.path} starts a "
            "new run from its weights"
        )
    return True

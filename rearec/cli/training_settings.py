"""The settings of a training as options: none is set unless it is given, the rest comes from a preset or a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from rearec.cli.options import options_of
from rearec.cli.output import note
from rearec.errors import UserError
from rearec.fields import Setting, settings
from rearec.models.config import ReaRecConfig
from rearec.training.options import TrainingOptions
from rearec.training.presets import SHARED, Preset, relevant, usual_setting
from rearec.training.words import ignored, preset_line

if TYPE_CHECKING:
    from rearec.data.dataset import SequenceDataset
    from rearec.run_folder import RunFolder

__all__ = ["Both", "from_preset", "from_run", "readable", "training_options", "without_ignored"]

SETTINGS: Mapping[str, Setting] = {**settings(ReaRecConfig), **settings(TrainingOptions)}
Both = tuple[ReaRecConfig, TrainingOptions]


def training_options(record: type) -> list[Setting]:
    """The options for the fields of one of the two records, None where they are not given."""
    return [replace(said, default=None, shown=_shown(said)) for said in options_of(record)]


def _shown(said: Setting) -> str | bool:
    """What ``--help`` says of the default."""
    usual = usual_setting(said.name)
    if usual == "best known":
        return "by preset"
    if said.name in SHARED:
        return usual if SHARED[said.name] == said.default else f"{usual}; paper: {said.default}"
    if isinstance(said.shown, str):
        return said.shown
    return False if said.default is None else "no" if said.default is False else str(said.default)


def without_ignored(given: Mapping[str, Any], backbone: str | None, method: str | None) -> dict[str, Any]:
    """What is given without the settings that the backbone or the method (None: any) does not read, which is said."""
    unread = ignored(given, backbone, method, lambda name: SETTINGS[name].flag)
    for line in unread.values():
        note(line)
    return {name: value for name, value in given.items() if name not in unread}


def from_preset(dataset: SequenceDataset, preset: Preset, given: Mapping[str, Any]) -> Both:
    """The settings of a new training; says what differs from the preset."""
    from rearec.training import settings_for

    try:
        config, options = settings_for(dataset, preset=preset, **given)
    except ValueError as error:
        raise UserError(as_option(str(error))) from None
    note(preset_line(config, options, preset, _name))
    return config, options


def from_run(folder: RunFolder, dataset: SequenceDataset, given: Mapping[str, Any]) -> Both:
    """The settings of the run to resume; UserError for one that is given and differs, unless it extends the run."""
    from rearec.training.resuming import settings_to_resume

    try:
        return settings_to_resume(folder, dataset, given)
    except ValueError as error:
        raise UserError(as_option(str(error))) from None


def readable(config: ReaRecConfig, options: TrainingOptions) -> dict[str, Any]:
    """The settings that the model and its training read, by field, without what the data decides."""
    return {
        name: value
        for name, value in {**asdict(config), **asdict(options)}.items()
        if name not in ("num_items", "feature_dim") and relevant(name, config.backbone, config.method)
    }


def as_option(message: str) -> str:
    """``temperature: got ...`` as ``--tau: got ...``."""
    name, colon, rest = message.partition(":")
    return f"{SETTINGS[name].flag}{colon}{rest}" if name in SETTINGS else message


def _name(field: str) -> str:
    return (SETTINGS[field].flags or field).split("/")[0].lstrip("-").replace("_", "-")

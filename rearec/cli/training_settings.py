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

if TYPE_CHECKING:
    from rearec.data.dataset import SequenceDataset
    from rearec.run_folder import RunFolder

__all__ = ["from_preset", "from_run", "readable", "training_options", "without_ignored"]

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
    read = dict(given)
    for name in SETTINGS:
        if name in given and (who := SETTINGS[name].not_read_by(backbone, method)):
            note(f"{SETTINGS[name].flag} is ignored: {who} does not {'reason' if who == 'base' else 'read it'}")
            del read[name]
    return read


def from_preset(dataset: SequenceDataset, preset: Preset, given: Mapping[str, Any]) -> Both:
    """The settings of a new training; says what differs from the preset."""
    from rearec.training import differing, settings_for

    try:
        config, options = settings_for(dataset, preset=preset, **given)
    except ValueError as error:
        raise UserError(as_option(str(error))) from None
    changes = [
        f"{_name(name)} {_value(value)} ({_value(usual)})"
        for name, (value, usual) in differing(config, options, preset).items()
    ]
    note(f"preset {preset}" + (f", with {', '.join(changes)}" if changes else ""))
    return config, options


def from_run(folder: RunFolder, dataset: SequenceDataset, given: Mapping[str, Any]) -> Both:
    """The settings of the run to resume; UserError for one that is given and differs, unless it extends the run."""
    from rearec.training import TrainingOptions, fitting_config
    from rearec.training.resuming import EXTENDABLE, settings_of_run

    stored = settings_of_run(folder)
    before = {**asdict(stored[0]), **asdict(stored[1])}
    for name, value in given.items():
        if name not in EXTENDABLE and value != before[name]:
            flag, was = SETTINGS[name].flag, before[name]
            if name == "exclude_seen":
                flag, was, value = "--exclude-seen/--keep-seen", *(_seen_flag(each) for each in (was, value))
            raise UserError(f"{flag}: the run to resume was started with {was}, not {value}")
    values = before | {name: value for name, value in given.items() if name in EXTENDABLE}
    model = {name: values[name] for name in settings(ReaRecConfig) if name not in ("num_items", "feature_dim")}
    try:
        return fitting_config(dataset, **model), TrainingOptions(**{name: values[name] for name in asdict(stored[1])})
    except ValueError as error:
        raise UserError(as_option(str(error))) from None


def _seen_flag(exclude: Any) -> str:
    return "--exclude-seen" if exclude else "--keep-seen"


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


def _value(value: Any) -> str:
    return f"{value:g}".replace("0.", ".", 1) if isinstance(value, float) and abs(value) < 1 else str(value)

"""What was asked for: backbones, methods, seeds and settings, from which every table and figure takes its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

from rearec.data.dataset import SequenceDataset
from rearec.errors import UserError
from rearec.evaluation import SeenItems, seen_items
from rearec.experiments.named_settings import check_names
from rearec.experiments.protocols import Protocol
from rearec.experiments.runs import Run
from rearec.models.config import BACKBONES, METHODS, ReaRecConfig
from rearec.training import TrainingOptions
from rearec.training.options import Prior
from rearec.training.presets import Preset, preset_settings, relevant

__all__ = ["Plan", "settings_of"]

MODEL_SETTINGS = tuple(entry.name for entry in fields(ReaRecConfig))
TRAINING_SETTINGS = tuple(entry.name for entry in fields(TrainingOptions))
# What the plan itself decides.
DECIDED = ("num_items", "feature_dim", "backbone", "method", "seed")


@dataclass(frozen=True)
class Plan:
    """The choices that hold for all tables and figures of one call.

    dataset: what the models are for. backbones, methods: those asked for, None where each table or figure has its own.
    seeds: how many; they are first_seed and those after it. settings: what differs from the preset, by field.
    search_settings: how many settings the search tries for each method. preset: of `rearec.training.presets`. prior:
    takes the place of the preset's: methods are compared as the paper does, without what a graph adds. protocol: of
    others, whose settings take the place of the preset's too.

    Raises:
        UserError: an unknown backbone, method or setting, a value that is out of its range, or a dataset that is not
            as the protocol has it.
    """

    dataset: SequenceDataset
    backbones: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    seeds: int = 1
    first_seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    search_settings: int = 8
    preset: Preset = "best"
    prior: Prior = "none"
    protocol: Protocol | None = None

    def __post_init__(self) -> None:
        if self.protocol is not None:
            self.protocol.check(self.dataset)
        check_names(self.backbones, self.methods)
        for name in self.settings:
            if name not in _free_settings():
                raise UserError(f"unknown setting {name!r}; known are {', '.join(_free_settings())}")
        if self.seeds < 1:
            raise UserError(f"seeds: got {self.seeds}, expected at least 1")
        # Some settings are read by one method only: wrong values shall be told for all of them.
        for method in METHODS:
            self.run(method)

    @cached_property
    def seen(self) -> SeenItems:
        """Whether seen items are left out in all runs, in the choice of the best epoch and on the pages."""
        return seen_items(self.dataset, {**self._protocol_settings, **self.settings}.get("exclude_seen"))

    @property
    def _protocol_settings(self) -> Mapping[str, Any]:
        return {} if self.protocol is None else self.protocol.settings

    def run(self, method: str, *, backbone: str = BACKBONES[0], number: int = 0, **changes: Any) -> Run:
        """The training of a seed's number with the preset's settings, those that were asked for, and ``changes``.

        Settings that the backbone or the method does not read keep the library's default, so that runs which differ in
        nothing else are the same run. UserError where a setting is wrong or the dataset lacks the features of a text
        backbone.
        """
        # imports torch, which wrong words on the command line need not wait for
        from rearec.training import fitting_config

        usual = {**preset_settings(self.preset, backbone, method), "prior": self.prior, **self._protocol_settings}
        wanted = {**usual, **self.settings, **changes}
        wanted = {name: value for name, value in wanted.items() if relevant(name, backbone, method)}
        wanted["exclude_seen"] = self.seen.exclude
        try:
            config = fitting_config(self.dataset, backbone=backbone, method=method, **_part(wanted, MODEL_SETTINGS))
            return Run(config, TrainingOptions(seed=self.first_seed + number, **_part(wanted, TRAINING_SETTINGS)))
        except ValueError as error:
            raise UserError(f"setting {error}") from error

    def over_seeds(self, method: str, **changes: Any) -> list[Run]:
        """`run` for every seed."""
        return [self.run(method, number=number, **changes) for number in range(self.seeds)]


def settings_of(run: Run) -> dict[str, Any]:
    """The settings of a run that its backbone and method read, by field."""
    values = {**asdict(run.config), **asdict(run.options)}
    del values["num_items"], values["feature_dim"]
    return {name: value for name, value in values.items() if relevant(name, run.config.backbone, run.config.method)}


def _free_settings() -> list[str]:
    return [name for name in (*MODEL_SETTINGS, *TRAINING_SETTINGS) if name not in DECIDED]


def _part(settings: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name in names}

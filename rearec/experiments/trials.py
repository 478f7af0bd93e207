"""The trials of a study: settings are asked for, trained, pruned by epoch, and what came of it is told.

A study is an Optuna study in a sqlite file; trials that were being trained when their process ended are tried again and
go on from their last whole epoch.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rearec.data import load_dataset
from rearec.data.dataset import SequenceDataset
from rearec.errors import UserError
from rearec.experiments.plan import Plan
from rearec.experiments.processes import answer, end_with
from rearec.experiments.runs import Run
from rearec.experiments.search_space import Axis, parse_axis
from rearec.run_folder import RunFolder
from rearec.training import train
from rearec.training.presets import Preset, preset_settings

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

__all__ = ["Job", "again", "arguments_of", "ended", "main", "open_study", "optuna", "revive", "run_of", "work"]

STUDY_NAME = "rearec"
METRIC = "valid_ndcg@20"
# Trials with random settings before those of others are learned from, trials before one is pruned, and the part of a
# training after which that may be.
RANDOM_TRIALS, UNPRUNED_TRIALS, UNPRUNED_PART = 8, 4, 6
# A trial that was begun so often without an epoch to show for it is given up.
MOST_STALLS = 3
# A study whose first trials all failed ends.
MOST_FAILURES = 3


@dataclass(frozen=True)
class Job:
    """What the trials of a study share, as json can hold it.

    out: the folder of the study. data: the dataset's path; None for one in memory. space: by setting, as
    `rearec.experiments.search_space.parse_axis` reads it. settings: what is fixed. trials: how many there are to be in
    all, None for no limit. prune: whether bad trials are ended early. keep_runs: whether the RUN folders of all trials
    stay.
    """

    out: str
    data: str | None
    method: str
    backbone: str
    preset: Preset
    seed: int
    space: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    trials: int | None = None
    prune: bool = True
    keep_runs: bool = False
    device: str = "cpu"

    @property
    def runs(self) -> Path:
        """Where the RUN folders of the trials are."""
        return Path(self.out) / "runs"

    @property
    def axes(self) -> dict[str, Axis]:
        """What is searched."""
        return {name: parse_axis(name, text) for name, text in self.space.items()}

    def plan(self, dataset: SequenceDataset) -> Plan:
        """The settings that are not searched."""
        usual = preset_settings(self.preset, self.backbone, self.method)
        prior = usual.get("prior", "none")
        return Plan(dataset, first_seed=self.seed, settings=self.settings, preset=self.preset, prior=prior)


def optuna() -> Any:
    """The module; UserError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise UserError('optuna is not installed: pip install "rearec[tune]"') from None
    return optuna


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna's notes on its trials are not shown; what its user has chosen for other studies is put back."""
    logs = optuna().logging
    before = logs.get_verbosity()
    logs.set_verbosity(logs.ERROR)
    try:
        yield
    finally:
        logs.set_verbosity(before)


def open_study(job: Job, epochs: int) -> Study:
    """The study of a job, made where it is missing. epochs: the most that a trial trains."""
    from sqlalchemy.engine import URL

    module = optuna()
    url = URL.create("sqlite", database=str(Path(job.out).resolve() / "study.sqlite"))
    with _quiet():
        pruner = module.pruners.MedianPruner(UNPRUNED_TRIALS, n_warmup_steps=max(1, epochs // UNPRUNED_PART))
        study: Study = module.create_study(
            study_name=STUDY_NAME,
            storage=module.storages.RDBStorage(
                url.render_as_string(hide_password=False), engine_kwargs={"connect_args": {"timeout": 60}}
            ),
            pruner=pruner if job.prune else module.pruners.NopPruner(),
            direction="maximize",
            load_if_exists=True,
        )
    return study


def again(study: Study) -> set[int]:
    """The numbers of trials that were not ended and have been begun anew under another number."""
    return {trial.user_attrs["again"] for trial in study.get_trials(deepcopy=False) if "again" in trial.user_attrs}


def ended(study: Study) -> list[FrozenTrial]:
    """The trials that have ended, whatever came of them."""
    anew = again(study)
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state.is_finished() and trial.number not in anew]


def revive(study: Study) -> None:
    """Let trials that nobody trains any more be tried again; call it where nobody can be training."""
    state = optuna().trial.TrialState
    with _quiet():
        for trial in study.get_trials(deepcopy=False, states=(state.RUNNING,)):
            epochs = max(trial.intermediate_values, default=0)
            stalls = 0 if epochs > trial.user_attrs.get("epochs_before", 0) else trial.user_attrs.get("stalls", 0) + 1
            if stalls < MOST_STALLS:
                attributes = {"again": trial.number, "epochs_before": epochs, "stalls": stalls}
                study.enqueue_trial(trial.params, user_attrs=attributes)
            study.tell(trial.number, state=state.FAIL)


def work(
    job: Job,
    dataset: SequenceDataset,
    *,
    deadline: float | None = None,
    on_trial: Callable[[FrozenTrial], None] | None = None,
    on_epoch: Callable[[int, dict[str, Any]], None] | None = None,
    on_batch: Callable[[int, int, int], None] | None = None,
) -> None:
    """Try settings until the budget is over. Several processes may do so side by side.

    deadline: of `time.monotonic`; what is being trained then stops, and the next call goes on with it.
    on_trial: called with a trial that has ended. on_epoch: with a trial's number and its row of metrics.csv.

    Raises:
        UserError: all of the first trials failed.
    """
    plan, axes = job.plan(dataset), job.axes
    epochs = plan.run(job.method, backbone=job.backbone).options.epochs
    with _quiet():
        study = open_study(job, epochs)
        while deadline is None or time.monotonic() < deadline:
            trial = _next(job, study)
            if trial is None:
                return
            if not _Trial(job, plan, axes, study, trial, dataset, deadline, on_epoch, on_batch).train():
                return
            if on_trial is not None:
                on_trial(study.get_trials(deepcopy=False)[trial.number])
            _check_failures(study)


def _next(job: Job, study: Study) -> Trial | None:
    """A trial that has begun; None where there are as many as there are to be."""
    module = optuna()
    # Of several processes one at a time looks how many there are, and takes one more.
    with (Path(job.out) / ".next").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        anew = again(study)
        begun = sum(
            trial.state != module.trial.TrialState.WAITING and trial.number not in anew
            for trial in study.get_trials(deepcopy=False)
        )
        if job.trials is not None and begun >= job.trials:
            return None
        # A sampler of its own for each trial: a study that goes on after a kill draws what it would have drawn.
        seed = int(np.random.SeedSequence([job.seed, begun]).generate_state(1)[0])
        study.sampler = module.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, seed=seed)
        return study.ask()


def _check_failures(study: Study) -> None:
    state, trials = optuna().trial.TrialState, ended(study)
    if len(trials) >= MOST_FAILURES and all(trial.state == state.FAIL for trial in trials):
        reason = trials[-1].user_attrs.get("error", "its process died")
        raise UserError(f"all of the first {len(trials)} trials failed, the last one: {reason}")


def run_of(plan: Plan, job: Job, settings: Mapping[str, Any]) -> Run:
    """The training of a trial; UserError where its settings do not go together."""
    return plan.run(job.method, backbone=job.backbone, **settings)


class _OutOfTime(Exception):
    """The budget is over."""


@dataclass
class _Trial:
    """One trial of a study."""

    job: Job
    plan: Plan
    axes: Mapping[str, Axis]
    study: Study
    trial: Trial
    dataset: SequenceDataset
    deadline: float | None
    on_epoch: Callable[[int, dict[str, Any]], None] | None
    on_batch: Callable[[int, int, int], None] | None

    def train(self) -> bool:
        """Train it and tell the study; False where the budget was over before it had ended."""
        module, trial = optuna(), self.trial
        state = module.trial.TrialState
        settings = {name: axis.suggest(trial, name) for name, axis in self.axes.items()}
        trial.set_user_attr("settings", settings)
        folder: RunFolder | None = None
        began = time.monotonic()
        try:
            run = run_of(self.plan, self.job, settings)
            folder = run.folder(self.job.runs)
            trial.set_user_attr("run", run.name)
            value = self._same(run)
            if value is None:
                value = self._trained(run, folder)
        except _OutOfTime:
            return False
        except module.TrialPruned:
            trial.set_user_attr("seconds", time.monotonic() - began)
            self.study.tell(trial, state=state.PRUNED)
            self._clear(folder)
        except UserError as error:
            trial.set_user_attr("error", str(error))
            self.study.tell(trial, state=state.FAIL)
            self._clear(folder)
        else:
            trial.set_user_attr("seconds", time.monotonic() - began)
            self.study.tell(trial, value)
            if self.study.best_trial.user_attrs["run"] != run.name:
                self._clear(folder)
        return True

    def _same(self, run: Run) -> float | None:
        """What an earlier trial of the same settings came to."""
        state = optuna().trial.TrialState
        for earlier in self.study.get_trials(deepcopy=False, states=(state.COMPLETE,)):
            if earlier.user_attrs["run"] == run.name:
                for name in ("best_epoch", "epochs"):
                    self.trial.set_user_attr(name, earlier.user_attrs[name])
                return earlier.value
        return None

    def _trained(self, run: Run, folder: RunFolder) -> float:
        """Validation NDCG@20 of the best epoch, as its training chose it: without a graph prior."""
        # What a training that was killed has reached already.
        for row in folder.metrics() if folder.last_checkpoint.is_file() else []:
            self._report(int(row["epoch"]), float(row[METRIC]))
        result = train(
            self.job.data or self.dataset,
            folder.path,
            run.config,
            run.options,
            device=self.job.device,
            resume=True,
            test=False,
            logger="none",
            on_epoch=self._after_epoch,
            on_batch=self._after_batch,
        )
        for name in ("best_epoch", "epochs"):
            self.trial.set_user_attr(name, result[name])
        return float(result["valid"].get("without_prior", result["valid"])["ndcg@20"])

    def _after_epoch(self, row: dict[str, Any]) -> None:
        if self.on_epoch is not None:
            self.on_epoch(self.trial.number, row)
        self._report(row["epoch"], row[METRIC])

    def _report(self, epoch: int, value: float) -> None:
        """TrialPruned where the epoch is too bad to go on."""
        self.trial.report(value, epoch)
        if self.trial.should_prune():
            raise optuna().TrialPruned

    def _after_batch(self, epoch: int, done: int, batches: int) -> None:
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise _OutOfTime
        if self.on_batch is not None:
            self.on_batch(epoch, done, batches)

    def _clear(self, folder: RunFolder | None) -> None:
        if folder is not None and folder.path.is_dir() and not self.job.keep_runs:
            shutil.rmtree(folder.path)


def main() -> None:
    """Work at the study that the last argument describes, in a process of its own."""
    answer(_work)


def arguments_of(job: Job, seconds: float | None) -> str:
    """What `main` is to do. seconds: until the budget is over."""
    return json.dumps({"job": {**vars(job)}, "seconds": seconds, "parent": os.getpid()})


def _work(job: dict[str, Any], seconds: float | None, parent: int) -> None:
    chosen = Job(**job)
    assert chosen.data is not None
    work(
        chosen,
        load_dataset(chosen.data),
        deadline=None if seconds is None else time.monotonic() + seconds,
        on_batch=lambda epoch, done, batches: end_with(parent),
    )

"""What a study has found: the chosen settings, its trials, its page."""

from __future__ import annotations

import math
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rearec.data.dataset import SequenceDataset
from rearec.evaluation.metrics import METRICS, heading
from rearec.evaluation.seen import seen_words
from rearec.experiments.frames import frame
from rearec.experiments.plan import Plan, settings_of
from rearec.experiments.runs import Run
from rearec.experiments.trials import Job, again, optuna
from rearec.files import write_aside
from rearec.report.floors import beside_floors
from rearec.report.page import Markdown, Page, escape
from rearec.report.plots import draw_bars, figure
from rearec.report.trials import draw_history
from rearec.run_folder import RunFolder

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

__all__ = ["StudyResult", "shown", "study_result"]

NAME = "tune"
# Trials that the page shows, and the fewest of which the importance of settings is told.
SHOWN, FEWEST = 15, 4
STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "stopped", "WAITING": "waiting"}


@dataclass(frozen=True, repr=False)
class StudyResult:
    """A study and the settings that it has chosen (see `rearec.experiments.tune.tune`).

    Attributes:
        out: its folder.
        settings: those of the chosen training that its method and backbone read, by field; ``best.yaml`` holds them.
        searched: the ones among them that were searched.
        number, value: of the chosen trial, and its validation NDCG@20.
        run: the RUN folder of the chosen training.
        config_file: ``best.yaml``, for ``rearec train --config``.
        test: what `rearec.evaluation.evaluate` says of it on the test rows; None where there are none.
        trials: a dictionary for each trial: ``trial``, ``state`` ("complete", "pruned", "failed", "stopped" or
            "waiting": the next call goes on with it), ``valid_ndcg@20`` (of the best epoch; of the last one where it
            was pruned), ``best_epoch``, ``epochs``, ``minutes``, the settings that were searched, and ``error``.
        importance: by setting, the share of the differences in validation NDCG@20 that it explains; empty where there
            are too few trials to tell.
        files: the page with its csv and PNG files, and best.yaml.
    """

    out: Path
    settings: dict[str, Any]
    searched: dict[str, Any]
    number: int
    value: float
    run: Path
    config_file: Path
    test: dict[str, Any] | None
    trials: list[dict[str, Any]]
    importance: dict[str, float]
    files: list[Path]

    @property
    def counts(self) -> dict[str, int]:
        """How many trials there are of each state."""
        states = [trial["state"] for trial in self.trials]
        return {state: states.count(state) for state in dict.fromkeys(states)}

    def to_dict(self) -> dict[str, Any]:
        """All of it as json can hold it."""
        return {
            "out": str(self.out),
            "run": str(self.run),
            "config_file": str(self.config_file),
            "trial": self.number,
            "valid_ndcg@20": self.value,
            "settings": self.settings,
            "searched": self.searched,
            "test": self.test,
            "trials": self.trials,
            "importance": self.importance,
            "files": [str(file) for file in self.files],
        }

    def to_frame(self, library: Literal["polars", "pandas"] = "polars") -> Any:
        """The trials as a data frame of polars or pandas; UserError where that is not installed."""
        return frame(self.trials, library)

    def __repr__(self) -> str:
        trials = ", ".join(f"{number} {state}" for state, number in self.counts.items())
        best = ", ".join(f"{name} {shown(value)}" for name, value in self.searched.items())
        return f"Study {self.out}: {trials}\nbest: trial {self.number}, validation NDCG@20 {self.value:.4f}: {best}"


def study_result(
    job: Job,
    plan: Plan,
    study: Study,
    dataset: SequenceDataset,
    run: Run,
    moved: Sequence[str],
    minutes: float | None,
) -> StudyResult:
    """Write the page, its files and best.yaml; ``best`` holds the chosen training already.

    run: the chosen training. moved: where the first trial is not the preset. minutes: of this call.
    """
    folder = Path(job.out)
    best = RunFolder(folder / "best")
    anew = again(study)
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.number not in anew]
    chosen = study.best_trial
    settings = {name: value for name, value in settings_of(run).items() if value is not None}
    config_file = folder / "best.yaml"
    write_aside(config_file, _yaml(job, settings, float(chosen.value or 0.0)))
    importance = _importance(study)
    table = [_line(trial, job) for trial in trials]
    page = Page(folder, NAME, f"Settings of {job.method} on {job.backbone}, searched on validation")
    test = best.result()["test"]
    _fill(page, job, plan, run, table, importance, chosen.number, float(chosen.value or 0.0), test)
    _add_origin(page, job, dataset, plan, moved, table, minutes)
    page.write()
    return StudyResult(
        out=folder,
        settings=settings,
        searched={name: settings[name] for name in job.space},
        number=chosen.number,
        value=float(chosen.value or 0.0),
        run=best.path,
        config_file=config_file,
        test=test,
        trials=table,
        importance=importance,
        files=[*page.files, config_file],
    )


def _yaml(job: Job, settings: Mapping[str, Any], value: float) -> str:
    """Names and values, as ``rearec train --config`` reads them."""
    import yaml

    head = f"# The settings with the best validation NDCG@20 ({value:.4f}) of a study of {job.method} on {job.backbone}"
    text: str = yaml.safe_dump({"preset": job.preset, **settings}, sort_keys=False, allow_unicode=True)
    return f"{head}\n{text}"


def _line(trial: FrozenTrial, job: Job) -> dict[str, Any]:
    state = STATES[trial.state.name]
    last = max(trial.intermediate_values, default=None)
    value = trial.value
    if state == "pruned" and last is not None:
        value = trial.intermediate_values[last]
    settings = trial.user_attrs.get("settings", {})
    seconds = trial.user_attrs.get("seconds")
    line = {
        "trial": trial.number,
        "state": state,
        "valid_ndcg@20": None if value is None or not math.isfinite(value) else value,
        "best_epoch": trial.user_attrs.get("best_epoch"),
        "epochs": trial.user_attrs.get("epochs", last),
        "minutes": None if seconds is None else seconds / 60,
    }
    return {**line, **{name: settings.get(name) for name in job.space}, "error": trial.user_attrs.get("error")}


def _importance(study: Study) -> dict[str, float]:
    """By setting; empty where there are too few trials, or nothing differs."""
    state = optuna().trial.TrialState
    complete = study.get_trials(deepcopy=False, states=(state.COMPLETE,))
    if len(complete) < FEWEST or len({trial.value for trial in complete}) < 2:
        return {}
    evaluator = optuna().importance.FanovaImportanceEvaluator(seed=0)
    found: dict[str, float] = optuna().importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(part) for name, part in found.items()}


def _fill(
    page: Page,
    job: Job,
    plan: Plan,
    run: Run,
    table: Sequence[Mapping[str, Any]],
    importance: Mapping[str, float],
    number: int,
    value: float,
    test: Mapping[str, Any] | None,
) -> None:
    page.text(
        f"Chosen: trial {number}, NDCG@20 {value:.4f} on the **validation** split, by which trials are chosen. It is "
        "the best of many on these rows, so it flatters the settings; the test rows below were ranked for the chosen "
        f"training alone. All trainings have one seed ({job.seed}): part of a difference between trials is the seed's."
    )
    start = settings_of(plan.run(job.method, backbone=job.backbone))
    own = settings_of(run)
    rows = [
        {
            "setting": name,
            "chosen": shown(own[name]),
            f"preset {job.preset}": shown(start[name]),
            "searched in": axis.words,
        }
        for name, axis in job.axes.items()
    ]
    page.table(rows)
    if test is not None:
        measured = [
            {"": name, **{heading(metric): line[metric] for metric in METRICS}}
            | {f"{heading(metric)}_se": line[f"{metric}_se"] for metric in METRICS}
            for name, line in beside_floors(job.method, test).items()
        ]
        caption = f"Test split, full catalogue, {seen_words(test['seen'])}; ± is the standard error over rows."
        page.table(measured, f"{NAME}-test", caption=caption, shared={"seen": test["seen"]})
    page.text("## Trials")
    ranked = sorted(table, key=lambda line: (line["state"] != "complete", -(line["valid_ndcg@20"] or 0.0)))
    readable = [{name: _cell(name, cell) for name, cell in line.items() if name != "error"} for line in ranked[:SHOWN]]
    caption = "The first of them by validation NDCG@20; that of a pruned trial is of its last epoch."
    page.table(readable, caption=caption)
    page.data(table, f"{NAME}-trials")
    failed = [f"trial {line['trial']}: {line['error'] or 'its process died'}" for line in table if _has_failed(line)]
    if failed:
        page.text("Failed:")
        page.text("\n".join(f"- {escape(line)}" for line in failed))
    page.figure(
        figure(draw_history, [(line["trial"], line["state"], line["valid_ndcg@20"]) for line in table]),
        f"{NAME}-history",
        "Validation NDCG@20 by trial, and the best one so far.",
    )
    if importance:
        parts = {"part": list(importance.values())}
        bars = figure(draw_bars, list(importance), parts, ylabel="part of the differences", title="What mattered")
        page.figure(
            bars,
            f"{NAME}-importance",
            "How much of the differences between the complete trials each setting explains (fANOVA); with few trials "
            "this is a hint, no measurement.",
        )
    else:
        page.text(f"With fewer than {FEWEST} complete trials that differ, nothing is told of the settings' importance.")


def _has_failed(line: Mapping[str, Any]) -> bool:
    return bool(line["state"] == "failed")


def _cell(name: str, cell: Any) -> Any:
    if name in ("valid_ndcg@20", "minutes", "trial", "best_epoch", "epochs", "state") or cell is None:
        return Markdown(cell) if name == "state" else cell
    return shown(cell)


def _add_origin(
    page: Page,
    job: Job,
    dataset: SequenceDataset,
    plan: Plan,
    moved: Sequence[str],
    table: Sequence[Mapping[str, Any]],
    minutes: float | None,
) -> None:
    """How the page was made."""
    page.text("## How this was made")
    page.code(_command(job, minutes))
    start = settings_of(plan.run(job.method, backbone=job.backbone))
    same = ", ".join(f"{name} {shown(value)}" for name, value in start.items() if name not in job.space)
    states = [line["state"] for line in table]
    lines = [
        f"data: {', '.join(f'{name} {value}' for name, value in dataset.statistics.items())}; "
        f"fingerprint {dataset.fingerprint}",
        f"{plan.seen}, in the choice of the best epochs as in all rankings",
        "trials: " + ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)),
        f"the first trial has the settings of the preset {job.preset}"
        + ("" if not moved else f", but for these: {'; '.join(moved)}"),
        "settings are drawn at random at first, then by TPE"
        + (
            "; a trial that is worse after an epoch than the median of the others after the same one is pruned"
            if job.prune
            else "; no trial is pruned"
        ),
        f"settings that all trials share: {same}",
        f"rearec {version('rearec')}, torch {version('torch')}, optuna {version('optuna')}, "
        f"Python {platform.python_version()}, device {job.device}",
    ]
    page.text("\n".join(f"- {escape(line)}" for line in lines))


def _command(job: Job, minutes: float | None) -> str:
    """The command that makes the page, with the names of its folders alone."""
    data = "DIR" if job.data is None else Path(job.data).name
    words = ["rearec", "tune", data, "--out", Path(job.out).resolve().name]
    words += ["--method", job.method, "--backbone", job.backbone, "--preset", job.preset, "--seed", str(job.seed)]
    words += [] if job.trials is None else ["--trials", str(job.trials)]
    words += [] if minutes is None else ["--minutes", f"{minutes:g}"]
    for name, text in job.space.items():
        words += ["--search", f"{name}={text}"]
    for name, value in job.settings.items():
        if name != "exclude_seen":
            words += ["--set", f"{name}={shown(value)}"]
    if (exclude := job.settings.get("exclude_seen")) is not None:
        words.append("--exclude-seen" if exclude else "--keep-seen")
    return shlex.join([*words, *([] if job.prune else ["--no-prune"]), "--device", job.device])


def shown(value: Any) -> str:
    """A setting for reading."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)

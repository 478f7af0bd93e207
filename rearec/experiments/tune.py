"""Search for the settings of one method that do best on validation, in a study that can be killed and continued."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import wait
from numbers import Integral, Real
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch

from rearec.data import load_dataset
from rearec.data.dataset import SequenceDataset
from rearec.errors import UserError
from rearec.evaluation import evaluate
from rearec.evaluation.ranking import check_split
from rearec.experiments.named_settings import check_names
from rearec.experiments.plan import Plan
from rearec.experiments.processes import Process, locked
from rearec.experiments.runs import Run
from rearec.experiments.search_space import Axis, parse_search, space_of
from rearec.experiments.study_result import StudyResult, study_result
from rearec.experiments.trials import Job, arguments_of, ended, open_study, optuna, revive, run_of, work
from rearec.files import OutputFolder, read_json, write_json
from rearec.inference.ids import check_count
from rearec.reasoning import ReaRec
from rearec.run_folder import RunFolder
from rearec.training import train
from rearec.training.presets import PRESETS, Preset
from rearec.training.resuming import settings_of_run

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

__all__ = ["DEFAULT_TRIALS", "tune"]

FORMAT_NAME = "rearec-study"
MARK = "study.json"
DEFAULT_TRIALS = 20
# Seconds between looks at what other processes have ended.
LOOK = 0.5
OUTPUT = OutputFolder(lambda folder: (folder / MARK).is_file(), other="holds no study; choose another folder")
PARTS = (MARK, "study.sqlite", "study.sqlite-journal", "runs", "best", "best.yaml", ".lock", ".next")


def _is_part(entry: Path) -> bool:
    return entry.name in PARTS or entry.name.lstrip(".").startswith(("tune", *PARTS))


REPLACED = replace(OUTPUT, is_part=_is_part, stranger="which is no part of a study")


def tune(
    data: str | Path | SequenceDataset,
    out: str | Path,
    *,
    method: str = "prl",
    backbone: str = "sasrec",
    preset: Preset = "best",
    trials: int | None = None,
    minutes: float | None = None,
    search: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    prune: bool = True,
    keep_runs: bool = False,
    jobs: int = 1,
    threads: int = 0,
    device: torch.device | str = "cpu",
    on_start: Callable[[int, list[str]], None] | None = None,
    on_trial: Callable[[FrozenTrial], None] | None = None,
    on_epoch: Callable[[int, dict[str, Any]], None] | None = None,
) -> StudyResult:
    """Try settings of a method and keep the training that does best in validation NDCG@20.

    The first trial has the preset's own settings, the next ones are drawn at random, those after them by Optuna's TPE.
    All have one seed. The same call goes on after a kill, or with a larger budget; it needs Optuna
    (``pip install "rearec[tune]"``). The test rows are ranked once, by the settings that are chosen.

    Args:
        data: a prepared dataset, or its path.
        out: folder of the study: ``tune.md`` with its csv and PNG files, ``best.yaml``, ``best`` (a RUN folder) and
            ``study.sqlite``.
        method, backbone, preset: whose settings are searched, and where the search begins.
        trials: how many there are to be in all; 20 where ``minutes`` is not given either.
        minutes: of this call; what is being trained when they are over goes on in the next call.
        search: what is tried instead of, or beside, `rearec.experiments.search_space.SPACE`: "lr=1e-4:1e-2:log",
            "steps=1,2,3", "dim=32:128".
        settings: those that are fixed, by field of `ReaRecConfig` and `TrainingOptions`.
        seed: of the trainings and of the search.
        resume: there has to be a study to go on with.
        force: replace a study that is there.
        prune: whether trials that are worse than the median of the others after the same epoch are ended.
        keep_runs: whether the RUN folders of all trials that ended stay in ``runs``.
        jobs: trials side by side, each in a process of its own; more than one need a dataset on disk, and which
            settings are drawn then depends on which trial ends first.
        threads: of each of several processes; 0 shares the cores among them.
        device: where to train.
        on_start: called with the number of trials that have ended already, and what is to be told of the search.
        on_trial: called with each trial (`optuna.trial.FrozenTrial`) that has ended.
        on_epoch: called after each epoch with the trial's number and its row of metrics.csv; not with several jobs.

    Returns:
        a `rearec.experiments.study_result.StudyResult`.

    Raises:
        UserError: Optuna is missing, an unknown method, backbone or setting, a dataset without validation rows, an
            ``out`` that holds another study or something else, a budget in which no trial ended.

    Examples:
        >>> import tempfile
        >>> from rearec.data.synthetic import Planted, generate
        >>> from rearec.experiments.tune import tune
        >>> dataset = generate(0, planted=Planted(users=30, themes=2, items_per_theme=3))
        >>> small = {"dim": 8, "ffn": 8, "layers": 1, "max_len": 8, "epochs": 1}
        >>> study = tune(dataset, tempfile.mkdtemp(), trials=2, search=["steps=1,2"], settings=small)
        >>> len(study.trials), sorted(study.settings)[:3], study.run.name
        (2, ['alpha', 'backbone', 'batch_rows'], 'best')
    """
    optuna()
    folder = Path(out)
    if not isinstance(data, SequenceDataset | str | Path):
        raise TypeError(f"data: got a {type(data).__name__}, expected a dataset or the path of one")
    if isinstance(search, str):
        raise TypeError(f"search: got the text {search!r}, expected several in a list, as in [{search!r}]")
    dataset = data if isinstance(data, SequenceDataset) else load_dataset(data)
    check_names([backbone], [method])
    if preset not in PRESETS:
        raise UserError(f"preset: got {preset!r}, expected one of {', '.join(PRESETS)}")
    check_count(seed, "seed", 0)
    _check_budget(trials, minutes, jobs, isinstance(data, SequenceDataset))
    check_split(dataset, "valid")
    fixed = dict(settings or {})
    if fixed.get("exclude_seen", ...) is None:
        del fixed["exclude_seen"]
    space = space_of(backbone, method, fixed, parse_search(search))
    job = Job(
        out=str(folder),
        data=None if isinstance(data, SequenceDataset) else str(Path(data).resolve()),
        method=method,
        backbone=backbone,
        preset=preset,
        seed=seed,
        space={name: str(axis) for name, axis in space.items()},
        settings=fixed,
        trials=trials if trials is not None or minutes is not None else DEFAULT_TRIALS,
        prune=prune,
        keep_runs=keep_runs,
        device=str(device),
    )
    plan = job.plan(dataset)
    first, moved = _first(plan, job, space)
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    _claim(folder, job, dataset.fingerprint, resume=resume, force=force)
    with locked(folder) as lock:
        write_json(folder / MARK, _mark(job, dataset.fingerprint))
        study = open_study(job, plan.run(method, backbone=backbone).options.epochs)
        if not study.get_trials(deepcopy=False):
            study.enqueue_trial(first)
        revive(study)
        if on_start is not None:
            on_start(len(ended(study)), moved)
        if jobs == 1:
            work(job, dataset, deadline=deadline, on_trial=on_trial, on_epoch=on_epoch)
        else:
            _side_by_side(job, study, jobs, threads, deadline, lock, on_trial)
        run = _keep_best(job, plan, study, dataset)
        return study_result(job, plan, study, dataset, run, moved, minutes)


def _check_budget(trials: int | None, minutes: float | None, jobs: int, in_memory: bool) -> None:
    for name, count in (("trials", trials), ("jobs", jobs)):
        if count is not None and (not isinstance(count, Integral) or isinstance(count, bool) or count < 1):
            raise UserError(f"{name}: got {count!r}, expected 1 or more")
    if minutes is not None and not (isinstance(minutes, Real) and minutes > 0):
        raise UserError(f"minutes: got {minutes!r}, expected more than 0")
    if jobs > 1 and in_memory:
        raise UserError("jobs: several need a dataset on disk; save it and give its path")


def _first(plan: Plan, job: Job, space: Mapping[str, Axis]) -> tuple[dict[str, Any], list[str]]:
    """What the study holds of the preset's own settings, and where these had to be moved into what is searched."""
    run = plan.run(job.method, backbone=job.backbone)
    first, moved = {}, []
    for name, axis in space.items():
        value = getattr(run.config if hasattr(run.config, name) else run.options, name)
        nearest = axis.nearest(value)
        if nearest != value:
            moved.append(
                f"the first trial has {name} {nearest:g}, not the preset's {value}: it is searched in {axis.words}"
            )
        first[name] = axis.internal(nearest)
    return first, moved


def _mark(job: Job, fingerprint: str) -> dict[str, Any]:
    """What a study cannot change when it goes on."""
    names = ("method", "backbone", "preset", "seed", "space", "settings", "prune")
    return {"format": FORMAT_NAME, "fingerprint": fingerprint, **{name: getattr(job, name) for name in names}}


def _claim(folder: Path, job: Job, fingerprint: str, *, resume: bool, force: bool) -> None:
    """UserError where there is something else than this study, or nothing that could be resumed."""
    if resume and force:
        raise UserError("--resume continues a study, --force replaces it: give one of them")
    OUTPUT.check(folder, replace=True)
    if not (folder / MARK).is_file():
        if resume:
            raise UserError(f"{folder}: there is no study to resume")
        return
    if force:
        REPLACED.check(folder, replace=True)
        # Not while somebody works at it.
        with locked(folder):
            shutil.rmtree(folder)
        return
    before = read_json(folder / MARK, "damaged: {}")
    wanted = _mark(job, fingerprint)
    if not isinstance(before, dict):
        raise UserError(f"{folder / MARK}: damaged: not the mark of a study")
    for name, value in wanted.items():
        if before.get(name) != value:
            told = f"{name} {before.get(name)}, not {value}"
            if isinstance(value, dict) and isinstance(was := before.get(name), dict):
                part = next(each for each in (*value, *was) if value.get(each) != was.get(each))
                told = f"{part} {was.get(part, 'not given')} in its {name}, not {value.get(part, 'left out')}"
            told = "other data" if name == "fingerprint" else told
            raise UserError(f"{folder}: its study was started with {told}; --force starts it anew")


def _side_by_side(
    job: Job,
    study: Study,
    jobs: int,
    threads: int,
    deadline: float | None,
    lock: IO[str],
    on_trial: Callable[[FrozenTrial], None] | None,
) -> None:
    """`work` in several processes; UserError where one of them failed."""
    threads = threads or max(1, (os.cpu_count() or 1) // jobs)
    seconds = None if deadline is None else deadline - time.monotonic()
    arguments = arguments_of(job, seconds)
    told = {trial.number for trial in ended(study)}
    running: list[Process] = []
    try:
        running += [Process("rearec.experiments.trials", arguments, threads, lock) for _ in range(jobs)]
        while running:
            ready = wait([process.end for process in running], LOOK)
            for process in [each for each in running if each.end in ready]:
                _, error = process.result()
                running.remove(process)
                if error is not None:
                    raise UserError(error)
            for trial in ended(study):
                if trial.number not in told and on_trial is not None:
                    on_trial(trial)
                told.add(trial.number)
    finally:
        for process in running:
            process.kill()


def _keep_best(job: Job, plan: Plan, study: Study, dataset: SequenceDataset) -> Run:
    """Leave the best training in ``best``, its test rows ranked; remove the others that ended."""
    complete = [trial for trial in ended(study) if trial.state == optuna().trial.TrialState.COMPLETE]
    if not complete:
        raise UserError(f"{job.out}: no trial has ended yet; the same command goes on from there")
    run = run_of(plan, job, study.best_trial.user_attrs["settings"])
    source, best = run.folder(job.runs), RunFolder(Path(job.out) / "best")
    if not source.finished and not _is_of(best, run):
        # It was deleted by somebody else, or lost by a kill.
        source.check_writable(force=True)
        train(job.data or dataset, source.path, run.config, run.options, device=job.device, resume=True, test=False)
    if source.finished:
        if best.path.exists():
            best.check_writable(force=True)
            shutil.rmtree(best.path)
        source.path.replace(best.path)
    if not job.keep_runs:
        for other in _finished(job.runs):
            shutil.rmtree(other.path)
        if job.runs.is_dir() and not any(job.runs.iterdir()):
            job.runs.rmdir()
    result = best.result()
    if result["test"] is None and len(dataset.rows("test")):
        model = ReaRec.from_pretrained(best.path, map_location=job.device)
        exclude = result["seen"] == "excluded"
        measured = evaluate(model, dataset, "test", exclude_seen=exclude, batch_rows=run.options.batch_rows)
        write_json(best.result_file, {**result, "test": measured})
    return run


def _finished(runs: Path) -> Iterator[RunFolder]:
    if runs.is_dir():
        yield from (folder for path in sorted(runs.iterdir()) if (folder := RunFolder(path)).finished)


def _is_of(folder: RunFolder, run: Run) -> bool:
    """Whether a folder holds a finished training with these settings."""
    return folder.finished and settings_of_run(folder) == (run.config, run.options)

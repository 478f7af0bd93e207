"""A study of settings: its trials, its budget, its end, and how it goes on after a kill."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from rearec.data import load_dataset
from rearec.data.synthetic import Planted, generate
from rearec.errors import UserError
from rearec.evaluation import evaluate
from rearec.experiments import trials
from rearec.experiments import tune as tune_module
from rearec.experiments.plan import Plan
from rearec.experiments.search_space import SPACE
from rearec.experiments.study_result import StudyResult
from rearec.experiments.trials import Job, open_study
from rearec.experiments.tune import tune
from rearec.models.config import ReaRecConfig
from rearec.reasoning import ReaRec
from rearec.run_folder import RunFolder
from rearec.training import TrainingOptions

pytestmark = pytest.mark.usefixtures("quick_figures")

SETTINGS = {"dim": 8, "ffn": 8, "layers": 1, "heads": 1, "max_len": 8, "epochs": 2, "batch_rows": 128}
SEARCH = ["steps=1:2", "lr=1e-3:1e-2:log"]


def settings_but(**changes: Any) -> dict[str, Any]:
    """All fixed but what is searched."""
    fixed = {"dropout": 0.1, "input_dropout": 0.1, "temperature": 0.1, "alpha": 1.5, "cl_weight": 0.0}
    return {**SETTINGS, **fixed, "weight_decay": 0.0, **changes}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tune") / "small"
    generate(0, planted=Planted(users=40, themes=3, items_per_theme=5), out=out)
    return out


@pytest.fixture(scope="module")
def study(data: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    """Three trials, nothing went wrong."""
    return tune(data, tmp_path_factory.mktemp("study") / "s", trials=3, search=SEARCH, settings=settings_but())


def told(result: StudyResult) -> list[tuple[Any, ...]]:
    return [(line["steps"], line["lr"], line["valid_ndcg@20"], line["best_epoch"]) for line in result.trials]


def test_the_best_training_is_kept_with_its_settings_and_tested_once(study: StudyResult, data: Path) -> None:
    assert [line["trial"] for line in study.trials] == [0, 1, 2] and study.counts == {"complete": 3}
    first = study.trials[0]
    # the preset's own, moved into what is searched
    assert (first["steps"], first["lr"]) == (2, 1e-3)
    assert study.value == max(line["valid_ndcg@20"] for line in study.trials)
    assert study.trials[study.number]["valid_ndcg@20"] == study.value
    assert study.searched == {name: study.trials[study.number][name] for name in ("steps", "lr")}
    result = RunFolder(study.run).result()
    assert result["valid"]["ndcg@20"] == study.value
    dataset, model = load_dataset(data), ReaRec.from_pretrained(study.run)
    assert result["test"] == study.test == evaluate(model, dataset, "test", batch_rows=SETTINGS["batch_rows"])
    assert not (study.out / "runs").exists()

    written = yaml.safe_load(study.config_file.read_text(encoding="utf-8"))
    assert written == {"preset": "best", **study.settings}
    options = RunFolder(study.run).options()
    recorded = {**options["model"], **options["training"]}
    assert {name: recorded[name] for name in study.settings} == study.settings
    assert study.settings | settings_but() == study.settings

    page = (study.out / "tune.md").read_text(encoding="utf-8")
    assert "on the **validation** split" in page and "All trainings have one seed (0)" in page
    assert "the first trial has steps 2, not the preset's 3" in page
    assert load_dataset(data).fingerprint in page and "rearec tune small --out s --method prl" in page
    with (study.out / "tune-trials.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["valid_ndcg@20"]) for line in lines] == [line["valid_ndcg@20"] for line in study.trials]
    assert all(path.is_file() for path in study.files) and (study.out / "tune-history.png").is_file()
    assert study.to_frame().shape == (3, len(study.trials[0])) and study.to_frame("pandas").shape[0] == 3
    assert json.dumps(study.to_dict(), allow_nan=False)
    assert f"best: trial {study.number}" in repr(study)


def test_a_killed_study_goes_on_and_ends_as_if_it_had_not_been_killed(
    study: StudyResult, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, killed = tmp_path / "s", []

    def kill(number: int, row: Mapping[str, Any]) -> None:
        if (number, row["epoch"]) == (1, 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(data, out, trials=3, search=SEARCH, settings=settings_but(), on_epoch=kill)
    assert not (out / "best").exists()
    epochs: list[tuple[int, int]] = []
    again = tune(
        data,
        out,
        trials=3,
        search=SEARCH,
        settings=settings_but(),
        resume=True,
        on_start=lambda ended, _: killed.append(ended),
        on_epoch=lambda number, row: epochs.append((number, row["epoch"])),
    )
    # trial 1 is tried again as trial 2, from its second epoch on where its first one was saved
    assert killed == [1] and epochs[-3:] == [(2, 2), (3, 1), (3, 2)]
    assert [line["trial"] for line in again.trials] == [0, 2, 3]
    assert told(again) == told(study) and again.value == study.value

    # All trials are there: nothing is trained.
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(trials, "train", never)
        patch.setattr(tune_module, "train", never)
        patch.setattr(tune_module, "evaluate", never)
        assert tune(data, out, trials=3, search=SEARCH, settings=settings_but()).trials == again.trials
    more = tune(data, out, trials=4, search=SEARCH, settings=settings_but())
    assert told(more)[:3] == told(study) and len(more.trials) == 4
    assert RunFolder(more.run).result()["valid"]["ndcg@20"] == more.value

    for changes, message in (
        ({"search": ["steps=1:3"]}, "started with lr 0.001:0.01:log in its space, not 0.0001:0.005:log"),
        ({"settings": settings_but(dim=16)}, "started with dim 8 in its settings, not 16"),
        ({"seed": 1}, "started with seed 0, not 1"),
        ({"resume": True, "force": True}, "give one of them"),
    ):
        with pytest.raises(UserError, match=message):
            tune(data, out, **{"trials": 4, "search": SEARCH, "settings": settings_but(), **changes})
    generate(1, planted=Planted(users=40, themes=3, items_per_theme=5), out=tmp_path / "other")
    with pytest.raises(UserError, match="started with other data; --force starts it anew"):
        tune(tmp_path / "other", out, trials=4, search=SEARCH, settings=settings_but())
    (out / "notes.txt").touch()
    with pytest.raises(UserError, match=r"holds 'notes.txt', which is no part of a study"):
        tune(data, out, trials=1, search=SEARCH, settings=settings_but(), force=True)
    (out / "notes.txt").unlink()
    anew = tune(data, out, trials=1, search=SEARCH, settings=settings_but(), force=True, keep_runs=True)
    assert told(anew) == told(study)[:1]


def test_what_the_budget_stops_goes_on_in_the_next_call(
    study: StudyResult, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(trials, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(tune_module, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def late(number: int, row: Mapping[str, Any]) -> None:
        clock.now = 61.0

    asked: dict[str, Any] = {"search": SEARCH, "settings": settings_but()}
    with pytest.raises(UserError, match="no trial has ended yet; the same command goes on from there"):
        tune(data, tmp_path / "s", minutes=1, on_epoch=late, **asked)
    epochs: list[tuple[int, int]] = []
    result = tune(
        data, tmp_path / "s", trials=1, on_epoch=lambda number, row: epochs.append((number, row["epoch"])), **asked
    )
    assert epochs == [(1, 2)] and told(result) == told(study)[:1]


class Scripted:
    """Stands for `train`: the value of every epoch of each training is given."""

    def __init__(self, value: Callable[[int, int], float], epochs: int = 12) -> None:
        self.value, self.epochs, self.trained = value, epochs, 0

    def __call__(self, data: Any, run: Path, config: ReaRecConfig, options: TrainingOptions, **more: Any) -> Any:
        assert more["test"] is False
        number, self.trained = self.trained, self.trained + 1
        values = []
        for epoch in range(1, self.epochs + 1):
            values.append(self.value(number, epoch))
            if math.isnan(values[-1]):
                raise UserError("the loss is not finite")
            more["on_epoch"]({"epoch": epoch, "valid_ndcg@20": values[-1]})
        best = max(values)
        return {"best_epoch": values.index(best) + 1, "epochs": self.epochs, "valid": {"ndcg@20": best}}


def job_in(folder: Path, **more: Any) -> Job:
    folder.mkdir()
    settings = {**settings_but(), "epochs": 12}
    return Job(str(folder), None, "prl", "sasrec", "best", 0, {"lr": "0.001:0.01:log"}, settings, **more)


def test_a_trial_that_is_worse_than_the_others_is_pruned_and_one_that_fails_is_left(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load_dataset(data)

    def value(number: int, epoch: int) -> float:
        return math.nan if number == 1 else 0.01 * epoch if number == 5 else 0.1 + 0.01 * number + 0.01 * epoch

    for folder, prune in (("pruned", True), ("not", False)):
        monkeypatch.setattr(trials, "train", Scripted(value))
        job = job_in(tmp_path / folder, trials=7, prune=prune)
        ended = []
        trials.work(job, dataset, on_trial=ended.append)
        assert [trial.state.name for trial in ended] == [
            *("COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"),
            *("PRUNED" if prune else "COMPLETE", "COMPLETE"),
        ]
        assert ended[1].user_attrs["error"] == "the loss is not finite"
        # not before the part of the 12 epochs in which everything may still happen
        assert max(ended[5].intermediate_values) == (2 if prune else 12)
        assert open_study(job, 12).best_trial.number == 6


def test_a_search_in_which_everything_fails_ends(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "train", Scripted(lambda number, epoch: math.nan))
    with pytest.raises(UserError, match="all of the first 3 trials failed, the last one: the loss is not finite"):
        trials.work(job_in(tmp_path / "s", trials=7), load_dataset(data))


def test_equal_settings_are_trained_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Scripted(lambda number, epoch: 0.1 * number)
    monkeypatch.setattr(trials, "train", script)
    (tmp_path / "s").mkdir()
    job = Job(str(tmp_path / "s"), None, "prl", "sasrec", "best", 0, {"steps": "1,2"}, settings_but(), 6)
    trials.work(job, load_dataset(data))
    ended = open_study(job, 2).get_trials()
    assert len(ended) == 6 and script.trained == 2
    assert len({(trial.params["steps"], trial.value) for trial in ended}) == 2


def test_a_training_that_dies_again_and_again_is_given_up(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trials, "train", die)
    job, dataset = job_in(tmp_path / "s", trials=2), load_dataset(data)
    for attempt in range(3):
        study = open_study(job, 12)
        trials.revive(study)
        with pytest.raises(KeyboardInterrupt):
            trials.work(job, dataset)
        (last,) = [trial for trial in study.get_trials() if trial.state.name == "RUNNING"]
        assert last.number == attempt
    trials.revive(study)
    states = [trial.state.name for trial in study.get_trials()]
    assert states == ["FAIL", "FAIL", "FAIL"] and trials.again(study) == {0, 1}
    monkeypatch.setattr(trials, "train", Scripted(lambda number, epoch: 0.5))
    trials.work(job, dataset)
    assert [trial.state.name for trial in study.get_trials()] == ["FAIL", "FAIL", "FAIL", "COMPLETE"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"trials": 0}, "trials: got 0"),
        ({"minutes": 0}, "minutes: got 0, expected more than 0"),
        ({"jobs": 0}, "jobs: got 0"),
        ({"method": "cot"}, "unknown method 'cot'"),
        ({"settings": {"tau": 1}}, "unknown setting 'tau'"),
        ({"search": ["lr=1:2"], "settings": {"lr": 1}}, "is fixed by --set too"),
        ({"resume": True}, "there is no study to resume"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_written(
    data: Path, tmp_path: Path, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        tune(data, tmp_path / "s", **asked)
    assert not (tmp_path / "s").exists()


def test_a_dataset_in_memory_is_for_one_process(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="jobs: several need a dataset on disk"):
        tune(load_dataset(data), tmp_path / "s", jobs=2)


def test_without_optuna_a_line_says_what_to_install(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r'optuna is not installed: pip install "rearec\[tune\]"'):
        tune(data, tmp_path / "s")
    # the search over a grid does without
    assert len(Plan(load_dataset(data)).run("prl").name) > 0 and SPACE["lr"].grid


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"preset": "fast"}, "preset: got 'fast', expected one of best, paper"),
        ({"search": "lr=1,2"}, "search: got the text 'lr=1,2'"),
        ({"trials": "3"}, "trials: got '3', expected 1 or more"),
        ({"jobs": 1.5}, "jobs: got 1.5, expected 1 or more"),
        ({"minutes": "3"}, "minutes: got '3', expected more than 0"),
        ({"seed": "a"}, "seed: got 'a', expected an integer"),
        ({"data": {}}, "data: got a dict, expected a dataset"),
    ],
)
def test_what_is_wrong_is_named_before_anything_is_written(
    tmp_path: Path, prepared: Path, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, UserError), match=message):
        tune(**{"data": prepared, "out": tmp_path / "study", **wrong})
    assert not (tmp_path / "study").exists()

"""Callbacks and loggers of a training, what a trainer of several processes is told, and advice."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger

from rearec.data import SequenceDataset, load_dataset
from rearec.errors import UserError
from rearec.models.config import ReaRecConfig
from rearec.reasoning import ReaRec
from rearec.training import TrainingModule, TrainingOptions, advice, train
from rearec.training.advice import contrastive_start, thread_advice

OPTIONS = TrainingOptions(epochs=2, batch_rows=512, lr=1e-2)
CONFIG = ReaRecConfig(40, method="base", dim=16, ffn=16, layers=1, max_len=8)


@pytest.fixture(scope="module")
def dataset(prepared: Path) -> SequenceDataset:
    return load_dataset(prepared)


class Counting(Callback):
    """Counts epochs, over a training that is resumed too."""

    def __init__(self, state: Any = None) -> None:
        self.epochs, self.state = 0, state

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.epochs += 1

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs, "state": self.state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs = state_dict["epochs"]


def test_the_state_of_a_callback_goes_on_with_the_run(dataset: SequenceDataset, tmp_path: Path) -> None:
    def interrupt(epoch: int, done: int, total: int) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path, CONFIG, OPTIONS, callbacks=[Counting()], on_batch=interrupt)
    second = Counting()
    train(dataset, tmp_path, CONFIG, OPTIONS, callbacks=[second], resume=True)
    assert second.epochs == 2


def test_a_callback_whose_state_could_not_be_read_back_is_told_at_once(
    dataset: SequenceDataset, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"callback Counting: its state_dict\(\) must hold tensors and plain values"):
        train(dataset, tmp_path, CONFIG, OPTIONS, callbacks=[Counting(state=Path("anything"))])


def test_a_callback_may_end_the_training(dataset: SequenceDataset, tmp_path: Path) -> None:
    class Stop(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.should_stop = True

    result = train(dataset, tmp_path, CONFIG, OPTIONS, callbacks=[Stop()])
    assert (result["epochs"], result["stopped_early"]) == (1, True)


def test_loggers_get_the_settings_and_the_metrics_of_the_best_epoch(dataset: SequenceDataset, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, own = tmp_path / "run", CSVLogger(tmp_path / "own", name="", version="")
    result = train(dataset, run, CONFIG, OPTIONS, preset="paper", logger=["tensorboard", "csv", own])
    settings = yaml.safe_load((run / "tensorboard" / "hparams.yaml").read_text())
    assert (settings["dim"], settings["lr"], settings["preset"]) == (16, 1e-2, "paper")
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    best = events.Scalars("best/test_ndcg@20")
    assert [each.value for each in best] == [pytest.approx(result["test"]["ndcg@20"])]
    assert "_hparams_/session_start_info" in events.summary_metadata
    for path in (run / "csv" / "version_0", tmp_path / "own"):
        with (path / "metrics.csv").open() as file:
            values = [row["best/valid_ndcg@20"] for row in csv.DictReader(file)]
        assert float(values[-1]) == pytest.approx(result["valid"]["ndcg@20"])
        assert yaml.safe_load((path / "hparams.yaml").read_text())["dim"] == 16
    # a folder of a logger is a part of the run, which --force may replace
    train(dataset, run, CONFIG, OPTIONS, logger="none", force=True)
    assert not (run / "csv").exists() and not (run / "tensorboard").exists() and (run / "metrics.csv").exists()


def test_unknown_loggers_and_those_not_installed_are_told(
    dataset: SequenceDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="unknown logger 'tb'; known are tensorboard, csv, wandb, mlflow, none"):
        train(dataset, tmp_path / "run", CONFIG, OPTIONS, logger=["csv", "tb"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("wandb", "mlflow"):
        with pytest.raises(UserError, match=f"logger {name}: the package {name} is not installed; pip install {name}"):
            train(dataset, tmp_path / "run", CONFIG, OPTIONS, logger=name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="logger mlflow: set MLFLOW_TRACKING_URI to where runs are kept"):
        train(dataset, tmp_path / "run", CONFIG, OPTIONS, logger="mlflow")
    assert not (tmp_path / "run").exists()


def test_several_processes_train_by_ddp_alone(dataset: SequenceDataset) -> None:
    module = TrainingModule(ReaRec(CONFIG), dataset, OPTIONS)
    module.trainer = SimpleNamespace(world_size=2, strategy=object())  # type: ignore[assignment]
    with pytest.raises(UserError, match="the trainer has 2 processes and object, expected DDPStrategy"):
        module.setup("fit")


def outcome(best: int, epochs: int, *, early: bool = False, test: float = 0.5) -> dict[str, Any]:
    floors = {"popularity": {"ndcg@20": 0.2}, "markov": {"ndcg@20": 0.4}}
    return {"best_epoch": best, "epochs": epochs, "stopped_early": early, "test": {"ndcg@20": test, **floors}}


def test_advice_is_given_where_it_is_due() -> None:
    rows = [{"valid_ndcg@20": str(value)} for value in (0.1, 0.2, 0.3)]
    options = TrainingOptions(epochs=3)
    assert advice(outcome(2, 3), rows, options) == []
    assert advice(outcome(3, 3, early=True), rows, options) == []
    assert advice(outcome(1, 1), rows[:1], options) == []
    (rising,) = advice(outcome(3, 3), rows, options)
    assert rising.endswith("still rose in the last epoch (.2000 to .3000): --resume --epochs 6 goes on")
    (anew,) = advice(outcome(3, 3), rows, TrainingOptions(epochs=3, schedule="cosine"))
    assert "--resume" not in anew and "train anew with more --epochs" in anew
    (below,) = advice(outcome(2, 3, test=0.3), rows, options)
    assert below.startswith("below markov (.4000) in test NDCG@20 (.3000)")
    assert advice(outcome(2, 3, test=0.1), rows, options)[0].startswith("below popularity (.2000) and markov (.4000)")
    more = outcome(2, 3, test=0.1)
    more["test"] |= {"rules": {"ndcg@20": 0.5}}
    words = "below popularity (.2000), markov (.4000) and rules (.5000) in"
    assert advice(more, rows, options)[0].startswith(words)
    assert len(advice(outcome(3, 3, test=0.1), rows, options)) == 2
    assert advice({**outcome(2, 3), "test": None}, rows, options) == []


@pytest.mark.parametrize(
    ("load", "processors", "threads", "told"),
    [
        # four processes of others on two processors, and beside them the own threads
        (3.99, 2, 2, True),
        (6.0, 2, 2, True),
        # an idle machine, one on which a training like this one has just ended, one thread, many processors
        (0.2, 2, 2, False),
        (2.1, 2, 2, False),
        (8.0, 2, 1, False),
        (20.0, 64, 16, False),
        (90.0, 64, 32, True),
    ],
)
def test_fewer_threads_are_advised_where_others_keep_the_processors_busy(
    load: float, processors: int, threads: int, told: bool
) -> None:
    line = thread_advice(load, processors, threads)
    assert line == ("--threads 1 may be faster: other work keeps the processors busy" if told else None)


def test_the_epoch_in_which_the_contrastive_term_comes_in() -> None:
    def start(**settings: Any) -> int | None:
        return contrastive_start(ReaRecConfig(40, **settings))

    assert start(method="prl", warmup=2) == 3
    assert start(method="prl", warmup=0) is start(method="prl", cl_weight=0) is start(method="erl") is None
